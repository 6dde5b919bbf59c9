#!/usr/bin/env python3
"""A GGUF model of each kind with one entry of its metadata, or one small tensor, spoilt: `run` and `convert` both end
with code 3 and one line that names it. And what is unusual but good is read."""
import os
import struct
import subprocess
import tempfile

import tiny_families
import tiny_gguf as g
from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
# One of each tokenizer and of each scaling of RoPE, windows, biases, norms of its own.
FAMILIES = {"llama": "llama", "phi3": "phi3", "gemma3_text": "gemma3", "qwen2": "qwen2"}
UNREAD = ["general.name", "general.type", "general.quantization_version", "vocab_size"]
# Entries that converters of others write.
MORE = {"tokenizer.ggml.eot_token_id": g.U32, "tokenizer.ggml.eom_token_id": g.U32, "general.sampling.temp": g.F32,
        "general.sampling.top_p": g.F32, "general.sampling.min_p": g.F32, "general.sampling.penalty_repeat": g.F32,
        "general.sampling.top_k": g.I32, "A.attention.sliding_window": g.U32, "A.attn_logit_softcapping": g.F32,
        "A.final_logit_softcapping": g.F32, "A.rope.freq_base_swa": g.F32, "tokenizer.chat_template": g.STRING,
        "A.attention.sliding_window_pattern": g.U32, "A.rope.scaling.type": g.STRING}
SCALED = {"A.rope.scaling.factor": g.F32, "A.rope.scaling.attn_factor": g.F32, "A.rope.scaling.yarn_beta_fast": g.F32,
          "A.rope.scaling.yarn_beta_slow": g.F32, "A.rope.scaling.original_context_length": g.U32}


# ---- GGUF files as entries, tensors and data ----

class Reader:
    def __init__(self, data):
        self.data, self.at = data, 24

    def take(self, code):
        values = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return values[0]

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n : self.at]

    def value(self, kind):
        if kind == g.STRING:
            return self.string()
        if kind == g.ARRAY:
            of, n = self.take("I"), self.take("Q")
            return of, [self.value(of) for _ in range(n)]
        return self.take(g.PACK[kind][1:])


def parse(data):
    """Entries by key, tensors by name (dims, type, offset), and the data behind them."""
    reader = Reader(data)
    n_tensors, n_entries = struct.unpack_from("<QQ", data, 8)
    entries, tensors = {}, {}
    for _ in range(n_entries):
        key, kind = reader.string().decode(), reader.take("I")
        entries[key] = kind, reader.value(kind)
    for _ in range(n_tensors):
        name, dims = reader.string().decode(), [reader.take("Q") for _ in range(reader.take("I"))]
        tensors[name] = dims, reader.take("I"), reader.take("Q")
    return entries, tensors, data[reader.at + -reader.at % 32 :]


def write(path, entries, tensors, data):
    with open(path, "wb") as f:
        f.write(g.file([g.entry(k, *v) for k, v in entries.items()], [g.tensor(n, *t) for n, t in tensors.items()], data))


class Model:
    def __init__(self, family, top):
        folder, self.path = f"{top}/{family}", f"{top}/{family}.gguf"
        self.top, self.name = top, FAMILIES[family]
        os.mkdir(folder)
        tiny_families.make(family, folder)
        subprocess.run([OUTRIDER, "convert", "-m", folder, "-o", self.path], check=True, stderr=subprocess.DEVNULL)
        with open(self.path, "rb") as f:
            self.entries, self.tensors, self.data = parse(f.read())

    def key(self, key):
        return key.replace("A.", self.name + ".") if key.startswith("A.") else key

    def answers(self, changed, tensors=None, data=None):
        """Of run and of convert to a folder: code, stderr. A value of None takes an entry away."""
        entries = {k: v for k, v in (self.entries | {self.key(k): v for k, v in changed.items()}).items() if v}
        write(self.path, entries, tensors or self.tensors, data or self.data)
        for command in (["run", "-p", "a", "-n", "1"], ["convert", "-o", f"{self.top}/back"]):
            done = subprocess.run([OUTRIDER, *command, "-m", self.path], stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=60)
            subprocess.run(["rm", "-rf", f"{self.top}/back"])
            yield command[0], done.returncode, done.stderr.decode(errors="replace")

    def refuses(self, what, names, changed, *more, only=None):
        for command, code, err in self.answers(changed, *more):
            if only and command != only:
                continue
            right = code == 3 and err.startswith("outrider: error: ") and err.count("\n") == 1 and names in err
            check(f"{self.name}, {what}, {command}", right, (code, err))

    def takes(self, what, changed, *more):
        for command, code, err in self.answers(changed, *more):
            check(f"{self.name}, {what}, {command}", code == 0, (code, err))


# ---- entries of another type ----

def other_types(m):
    entries = {k: v[0] for k, v in m.entries.items()} | {m.key(k): kind for k, kind in MORE.items()}
    if m.key("A.rope.scaling.type") in m.entries:
        entries |= {m.key(k): kind for k, kind in SCALED.items()}
    wrong = []
    for key, kind in entries.items():
        if any(key.endswith(unread) for unread in UNREAD):
            continue
        value = (g.U32, 5) if kind in (g.STRING, g.ARRAY) else (g.STRING, "x")
        if key == "tokenizer.ggml.pre" and "tokenizer.ggml.merges" not in m.entries:
            continue
        if "rope.scaling" in key and "rope_freqs.weight" in m.tensors or (
                key.endswith("scaling.factor") and "rope_factors_long.weight" in m.tensors):
            continue  # the tensors say more
        for command, code, err in m.answers({key: value}):
            if command == "run" and key.endswith("unknown_token_id"):
                continue  # the token's type says it
            if code != 3 or err.count("\n") != 1 or f'"{key}"' not in err:
                wrong.append(f"{key}, {command}: code {code}: {err!r}")
    check(f"{m.name}, each of {len(entries)} entries of another type", not wrong, wrong)


# ---- configurations ----

def with_tensor(m, name, values, kind=g.TYPE_F32, dims=None):
    offset = len(m.data) + -len(m.data) % 32
    data = m.data + b"\0" * (offset - len(m.data)) + struct.pack(f"<{len(values)}f", *values)
    return m.tensors | {name: (dims or [len(values)], kind, offset)}, data


def configurations(llama, phi3, gemma, qwen):
    for name, value in {"value_length": 8, "key_length": 32}.items():
        llama.refuses(f"a {name} of its own", "metadata \"llama.attention.value_length\"",
                      {f"A.attention.{name}": (g.U32, value)})
    llama.refuses("a head that rotates in part", "rope.dimension_count", {"A.rope.dimension_count": (g.U32, 8)})
    llama.refuses("no embeddings", "token_embd.weight", {},
                  {k: v for k, v in llama.tensors.items() if k != "token_embd.weight"})
    for what, values in {"all 2": [2.0] * 8, "NaN": [float("nan")] * 8, "0": [0.0] * 8}.items():
        llama.refuses(f"frequencies of {what}", "rope_freqs.weight", {}, *with_tensor(llama, "rope_freqs.weight", values))
    llama.refuses("too few frequencies", "half the head's length", {}, *with_tensor(llama, "rope_freqs.weight", [1.0] * 4))
    phi3.refuses("a factor that is NaN", "rope_factors_long.weight", {},
                 *with_tensor(phi3, "rope_factors_long.weight", [1.0] * 7 + [float("nan")]))
    phi3.refuses("factors of half the precision", "half the head's length in F32", {},
                 *with_tensor(phi3, "rope_factors_short.weight", [1.0] * 8, kind=1))
    phi3.refuses("factors as a matrix", "half the head's length in F32", {},
                 *with_tensor(phi3, "rope_factors_short.weight", [1.0] * 8, dims=[8, 1]))
    phi3.takes("factors without the name", {"A.rope.scaling.type": None})
    bools = [bool((layer + 1) % 6) for layer in range(tiny_families.LAYERS)]
    pattern = "A.attention.sliding_window_pattern"
    gemma.takes("a pattern as a list", {pattern: (g.ARRAY, (g.BOOL, bools))})
    gemma.takes("a pattern as a number", {pattern: (g.U32, 6)})
    gemma.takes("a base of its own for local layers", {"A.rope.freq_base_swa": (g.F32, 1e4)})
    gemma.refuses("a pattern of numbers", "sliding_window_pattern", {pattern: (g.ARRAY, (g.U32, bools))})
    gemma.refuses("a pattern of 5000 layers", "is too long", {pattern: (g.ARRAY, (g.BOOL, [True] * 5000))})
    gemma.refuses("a pattern of 3 layers", "layer_types", {pattern: (g.ARRAY, (g.BOOL, [True] * 3))})
    linear = {"A.rope.scaling.type": (g.STRING, "linear"), "A.rope.scaling.factor": (g.F32, 4.0)}
    yarn = {"A.rope.scaling.type": (g.STRING, "yarn"), "A.rope.scaling.factor": (g.F32, 4.0),
            "A.rope.scaling.original_context_length": (g.U32, 64), "A.rope.scaling.yarn_beta_fast": (g.F32, 32.0)}
    qwen.takes("RoPE of no scaling", {"A.rope.scaling.type": (g.STRING, "none")})
    qwen.takes("RoPE of a factor", linear)
    qwen.takes("RoPE of YaRN", yarn | {"A.rope.scaling.yarn_beta_slow": (g.F32, 1.0), "A.rope.scaling.attn_factor": (g.F32, 1.0)})
    for key, kind in SCALED.items():
        qwen.refuses(f"YaRN with a text as {key}", qwen.key(key), yarn | {key: (g.STRING, "x")})
    for value in (0.0, -1.0, float("inf"), float("nan")):
        qwen.refuses(f"a factor of {value}", "factor", linear | {"A.rope.scaling.factor": (g.F32, value)})
    qwen.refuses("a scaling of no UTF-8", "not UTF-8", {"A.rope.scaling.type": (g.STRING, b"\xff")})
    qwen.refuses("a scaling of another name", "rope_scaling", {"A.rope.scaling.type": (g.STRING, "some")})
    qwen.takes("a window of 0", {"A.attention.sliding_window": (g.U32, 0)})
    llama.takes("a window", {"A.attention.sliding_window": (g.U32, 32)})
    llama.takes("knobs of sampling", {"general.sampling.temp": (g.F32, 0.5), "general.sampling.top_k": (g.I32, 5)})
    llama.takes("no sizes of heads", {"A.attention.key_length": None, "A.attention.value_length": None})


# ---- tokenizers ----

def tokens_with(m, i, text=None, kind=None):
    """The vocabulary with one token changed."""
    texts, kinds = list(m.entries["tokenizer.ggml.tokens"][1][1]), list(m.entries["tokenizer.ggml.token_type"][1][1])
    texts[i] = texts[i] if text is None else text
    kinds[i] = kinds[i] if kind is None else kind
    return {"tokenizer.ggml.tokens": (g.ARRAY, (g.STRING, texts)),
            "tokenizer.ggml.token_type": (g.ARRAY, (g.I32, kinds))}


def tokenizers(m, merged):
    n = len(m.entries["tokenizer.ggml.tokens"][1][1])
    tokens, kinds, scores = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
    m.refuses("another kind of tokenizer", "tokenizer.ggml.model", {"tokenizer.ggml.model": (g.STRING, "rwkv")})
    m.refuses("no kind of tokenizer", "tokenizer.ggml.model", {"tokenizer.ggml.model": None})
    m.refuses("no tokens", tokens, {tokens: (g.ARRAY, (g.STRING, []))})
    m.refuses("too few types", "token", {kinds: (g.ARRAY, (g.I32, [1] * (n - 1)))})
    m.refuses("too few scores", "scores", {scores: (g.ARRAY, (g.F32, [0.0] * (n - 1)))})
    for kind in (-1, 0, 7, 2**31 - 1):
        m.refuses(f"a token of type {kind}", f"{kinds}[300]", tokens_with(m, 300, kind=kind), only="run")
    m.refuses("an empty token", f"{tokens}[300]", tokens_with(m, 300, b""))
    m.refuses("a token of 1025 bytes", f"{tokens}[300]", tokens_with(m, 300, b"x" * 1025))
    m.refuses("a token of 513 bytes", f"{tokens}[300]", tokens_with(m, 300, b"x" * 513), only="run")
    for name in ("bos_token_id", "eos_token_id", "eot_token_id"):
        m.refuses(f"{name} {n}", "token", {f"tokenizer.ggml.{name}": (g.U32, n)})
    template = "tokenizer.chat_template"
    m.refuses("a template of no UTF-8", template, {template: (g.STRING, b"\xff")})
    m.refuses("a template with a NUL", template, {template: (g.STRING, b"a\0b")})
    m.refuses("a template of 1 MiB and a byte", template, {template: (g.STRING, b"x" * (2**20 + 1))}, only="run")
    m.takes("an empty template", {template: (g.STRING, b"")})
    m.takes("a token that says to end", tokens_with(m, n - 2, b"<|im_end|>", 3))
    if merged:
        merges = "tokenizer.ggml.merges"
        m.refuses("a merge of one token", f"{merges}[0]", {merges: (g.ARRAY, (g.STRING, ["ab"]))}, only="run")
        m.refuses("a merge of a byte", f"{merges}[0]", {merges: (g.ARRAY, (g.STRING, ["a"]))}, only="run")
        m.refuses("a merge of no tokens", f"{merges}[1]", {merges: (g.ARRAY, (g.STRING, ["h e", "q \u4e2d"]))}, only="run")
        m.refuses("a merge of no UTF-8", merges, {merges: (g.ARRAY, (g.STRING, [b"\xff a"]))})
        m.refuses("another pre-tokenizer", "tokenizer.ggml.pre", {"tokenizer.ggml.pre": (g.STRING, "x" * 100)})
        m.refuses("a byte that is missing", "no token for the byte 0x21", tokens_with(m, 0, b"!!!"), only="run")
        first = m.entries[tokens][1][1][0]
        m.refuses("a token twice", f"{tokens}[{n - 1}]", tokens_with(m, n - 1, first, 1), only="convert")
        m.refuses("a token of no UTF-8", "UTF-8", tokens_with(m, n - 1, b"\xff"), only="convert")
        m.refuses("a token with a NUL", f"{tokens}[{n - 1}]", tokens_with(m, n - 1, b"a\0"), only="convert")
        m.takes("a token without a use", tokens_with(m, n - 1, b"[PAD]", 5))
        m.takes("no pre-tokenizer's BOS", {"tokenizer.ggml.add_bos_token": (g.BOOL, False)})
    else:
        for text in (b"\xff", b"a\0b", b"\xed\xa0\x80"):
            m.refuses(f"a token of {text}", f"{tokens}[300]", tokens_with(m, 300, text))
        for score in (float("nan"), float("inf"), 1e30):
            values = [0.0] * n
            values[300] = score
            m.refuses(f"a score of {score}", f"{scores}[300]", {scores: (g.ARRAY, (g.F32, values))})


def main():
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as top:
        models = {family: Model(family, top) for family in FAMILIES}
        for m in models.values():
            m.takes("as it is", {})
            other_types(m)
        configurations(*models.values())
        tokenizers(models["llama"], True)
        tokenizers(models["phi3"], False)
    finish()


if __name__ == "__main__":
    main()
