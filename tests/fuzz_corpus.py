#!/usr/bin/env python3
"""Inputs of the fuzz targets, made anew each time: `tests/fuzz_corpus.py FOLDER` writes FOLDER/TARGET/INPUT, good
files to start from, spoilt ones, and every input that once broke something (found()); and FOLDER/TARGET.dict, words
for libFuzzer. tests/test_fuzz.py replays them all.
"""
import json
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bad_gguf
import tiny_gguf
import tiny_model as tiny


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def safetensors(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def fuzz_safetensors():
    yield tiny.model_safetensors()
    yield safetensors({"w": tensor()})
    yield safetensors({"w": tensor(), "e": tensor(shape=(0, 3), offsets=(8, 8)), "__metadata__": {"format": "pt"}})
    yield safetensors({"a": tensor("BF16", (2, 1), (0, 4)), "s": tensor("F32", (), (4, 8))})
    for scale, shape in (("weight_scale", ()), ("weight_scale", (2, 1)), ("weight_scale_inv", (1, 1)), ("scale", (1, 2))):
        floats = 1 if shape in ((), (1, 1)) else 2
        yield safetensors({"a.weight": tensor("F8_E4M3", (2, 128), (8, 264)), f"a.{scale}": tensor("F32", shape, (0, 4 * floats)),
                           "p": tensor("F32", (2 - floats,), (4 * floats, 8))}, bytes(range(256)) + b"\0" * 8)
    yield safetensors({"w": tensor(shape=(2**63 - 1, 4))})
    yield safetensors({"w": tensor(), "v": tensor()})
    yield safetensors({"w\u009b31m\n\u202e": tensor("U8")})
    yield safetensors(b'{"w":' * 70)
    yield struct.pack("<Q", 2**63) + b"{}"


def fuzz_index():
    good = {"metadata": {"total_size": 16}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    yield json.dumps(good).encode()
    for shard in ["../a.safetensors", "", ".", "a.safetensors\0", "c.safetensors", "/dev/zero", 3, None]:
        yield json.dumps({"weight_map": {"x": shard, "y": "b.safetensors"}}).encode()
    yield json.dumps({"weight_map": {"x": "a.safetensors"}}).encode()
    yield b'{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}'


def fuzz_config():
    generation = b'{"temperature":0.6,"top_p":0.9,"eos_token_id":[2,3],"do_sample":true}'
    yield json.dumps(tiny.CONFIG).encode() + b"\0" + generation
    for key in tiny.CONFIG:
        for value in [0, -1, 2**31, 1e308, "x", None, [], {}]:
            yield json.dumps(dict(tiny.CONFIG, **{key: value})).encode()
    yield json.dumps(dict(tiny.CONFIG, rope_parameters={"rope_theta": 5e5, "rope_type": "default"})).encode()
    scalings = [{"rope_type": "linear", "factor": 2.0},
                {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 1024},
                {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 32},
                {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}]
    for scaling in scalings:
        yield json.dumps(dict(tiny.CONFIG, rope_scaling=scaling)).encode()
    for family in ["qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "mistral"]:
        yield json.dumps(dict(tiny.CONFIG, model_type=family, sliding_window=16, query_pre_attn_scalar=8,
                              layer_types=["full_attention", "sliding_attention"],
                              original_max_position_embeddings=1024)).encode()


def fuzz_sentencepiece():
    few = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("a", 1), ("b", 1), ("\u2581", 1), ("ab", 1)]
    plain = tiny.field(2, tiny.field(3, 2)) + tiny.field(3, tiny.field(3, 0))
    pieces = b"".join(tiny.piece(text, kind) for text, kind in few)
    yield tiny.tokenizer_model()
    yield pieces + plain
    yield pieces  # a Unigram
    yield pieces + tiny.piece("c" * 512, 1) + plain
    yield pieces + tiny.piece("c" * 513, 1) + plain
    yield pieces + tiny.piece(b"\xff", 1) + plain
    yield pieces + tiny.piece("d", 1, float("nan"))
    yield pieces + tiny.piece("d", 4) + plain
    yield pieces + b"\x0a" + tiny.varint(2**63)
    yield pieces + plain + tiny.field(3, tiny.field(2, b"\0" * 40))  # a character map


def fuzz_tokenizer_config():
    yield json.dumps(tiny.TOKENIZER_CONFIG).encode()
    added = {"5": {"content": "<|im_start|>", "special": True}, "6": {"content": "<|im_end|>", "special": True}}
    yield json.dumps({"added_tokens_decoder": added, "eos_token": {"content": "<|im_end|>"}}).encode()
    yield json.dumps({"chat_template": [{"name": "default", "template": tiny.TEMPLATE}]}).encode()
    yield b"{}\0" + tiny.TEMPLATE.encode()
    for key in ["-1", "65541", "99999999999999999999", "1x", ""]:
        yield json.dumps({"added_tokens_decoder": {key: added["5"]}}).encode()


def fuzz_chat():
    for kind in [*range(14), *range(14 + 13, 256, 23)]:  # whole conversations, and the rest of some
        yield bytes([kind]) + b"\0You are kind.\0\1Hello\0\2 Hi </s> \0\1<s>[INST]<|user|>\0"
    yield b"\2\1\xff\xfe<|assistant|>\n\0\2\0\1\xc2"


def fuzz_utf8():
    yield b"\1plain"
    yield b"\2\xe2\x96\x81 \xf0\x9f\x98\x80 \xc3\xa9"
    yield b"\3\xe2\x96 \xf0\x9f\x98 \xc3 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\x80 \xff"


def fuzz_options():
    def line(command, *arguments):
        return bytes([command]) + b"".join(a.encode() + b"\0" for a in arguments)
    yield line(0, "-p", "x", "-n", "32K", "--temp", "0", "--top-k=5", "--stop", "a", "--stop", "b", "--json")
    yield line(1, "-m", "weights", "-md", "draft", "--spec-draft-n-max", "auto", "-sys", "x", "--color", "off")
    yield line(2, "-p", "128,512", "--repetitions", "3", "--seed", "-1", "-o", "csv")
    yield line(3, "--ctx-size", "9223372036854775807M", "-t", "-5")
    yield line(4, "--help=model")
    yield line(0, "--temp", "nan", "--top-p", "1e999", "--logit-bias", "1=-inf")


def fuzz_session():
    def chat(messages, **settings):
        return json.dumps({"format": "outrider chat 1", "settings": settings, "messages": [
            {"role": role, "content": text} for role, text in messages]}).encode()
    yield chat([])
    yield chat([("user", "the"), ("assistant", "ab")], temp="0.5", stop=["###", "b"])
    yield chat([("system", "be"), ("user", "the"), ("assistant", "")], seed="7", predict="10")
    yield chat([("user", "the")])
    yield chat([("assistant", "the"), ("user", "a")])
    yield chat([], temp="-1")
    yield chat([], model="/etc/passwd")
    yield chat([("user", "x" * 5000), ("assistant", "y")])
    yield b'{"format": "outrider chat 1", "settings": {}, "messages": [{"role": "user", "content": "\\u0000"}, ' \
          b'{"role": "assistant", "content": "\\u0000"}]}'


def session_file(tokens=(), turns=(), lengths=(0, 0), encoded=None, page=16, n=None):
    """As runtime/session_file.c writes it for the tiny pair; the target puts fingerprints and the checksum right."""
    texts = b"".join(text for _, _, text in turns)
    a_page = tiny.KV_HEADS * tiny.HEAD_DIM * page * 2
    cache = [-(-length // page) * a_page * 2 * tiny.LAYERS for length in lengths]
    encoded = len(turns) if encoded is None else encoded
    out = struct.pack("<8s2Q2QQ8i", b"ORSESS1", 1, 1, *cache, len(texts), page, len(tokens) if n is None else n, *lengths,
                      len(turns), encoded, 0, 0)
    out += struct.pack(f"<{len(tokens)}i", *tokens) + bytes(i % 3 for i in range(len(tokens)))
    for role, begin, text in turns:
        out += struct.pack("<2iQ", role, begin, len(text))
    return out + texts + bytes(i % 59 for i in range(sum(cache))) + b"\0" * 8


def fuzz_session_file():
    yield session_file(range(3, 23), [(1, 0, b"the a"), (2, 9, b"")], (19, 17))
    yield session_file()
    yield session_file(range(3, 63), [(0, 0, b"be"), (1, 5, b"the"), (2, 9, b"a"), (1, 20, b"the"), (2, 30, b"")], (59, 16))
    yield session_file(range(64), [], (16, 0))
    yield session_file([1, 2, 3], [(1, 0, b"the")], (2, 0), encoded=2)
    yield session_file([1, 2, 2**31 - 1])
    yield session_file([1, 2], [(3, 0, b"a")])
    yield session_file([1, 2], [(1, 1, b"a"), (2, 0, b"b")])
    yield session_file([1, 2, 3], lengths=(3, 0))
    yield session_file([1, 2, 3], n=-1)


def fuzz_tokenizer():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden/tokenizers")
    added = b'{"added_tokens_decoder": {"600": {"content": "<|im_start|>", "special": true}}}'
    small = {"model": {"type": "BPE", "vocab": {"u": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"], "unk_token": "u"}}
    yield json.dumps(small).encode() + b"\0abca"
    for name in sorted(os.listdir(folder)):
        if os.path.isdir(f"{folder}/{name}"):
            with open(f"{folder}/{name}/tokenizer.json", "rb") as f:
                yield f.read() + b"\0 Hello <s> 12345\n\n\xc3\xa9\xff\0" + added
    for merges in [["a  b"], [["a", "b"]], [["b", "a"]], ["ab"], {}]:
        yield json.dumps({"model": dict(small["model"], merges=merges)}).encode()
    split = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated"}
    yield json.dumps(dict(small, pre_tokenizer=split)).encode() + b"\0" + b"a" * 60 + b"cb"
    for behavior in ["Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        yield json.dumps(dict(small, pre_tokenizer=dict(split, behavior=behavior))).encode() + b"\0aab"


def fuzz_jinja():
    said = b"\0\0You are kind.\0\1Hello\0\2 Hi </s> \0\1<s>[INST]\xc3\xa9\0"
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden/templates.json"), encoding="utf-8") as f:
        for template in json.load(f)["templates"]:
            yield template["source"].encode() + said
    for hostile in ["{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 9223372036854775807 + 1 }}", "{{ " + "(" * 3000,
                    "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
                    "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}", "{% if true %}" * 200,
                    "{{ 'a' * 1000000000 }}", "{{ 'a' | indent(1000000000) }}", "{{ range(0, 9223372036854775807) | list }}",
                    "{{ (-9223372036854775807 - 1) // -1 }}", "{{ [1, 2][::-9223372036854775808] }}", "{{ ('9' * 400) | int }}",
                    "{{ strftime_now('%999999999d') }}", "{{ 1" + " if 1 else 1" * 3000 + " }}",
                    "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
                    "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}{{ n.x | tojson }}",
                    "{% set n = namespace(x=['a']) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}"]:
        yield hostile.encode() + said


def merged_tokenizer(pre):
    """Entries of a byte-level vocabulary with two merges; GPT-2's alphabet for bytes."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]
    tokens = alphabet + ["ab", "\u0120a", "<|end|>", "<tool>"]
    array = tiny_gguf.ARRAY
    rows = [("model", tiny_gguf.STRING, "gpt2"), ("pre", tiny_gguf.STRING, pre),
            ("tokens", array, (tiny_gguf.STRING, tokens)), ("merges", array, (tiny_gguf.STRING, ["a b", "\u0120 a"])),
            ("token_type", array, (tiny_gguf.I32, [1] * (len(tokens) - 2) + [3, 4])),
            ("bos_token_id", tiny_gguf.U32, len(tokens) - 2)]
    return [tiny_gguf.entry("tokenizer.ggml." + key, kind, value) for key, kind, value in rows]


def fuzz_gguf():
    yield tiny_gguf.tiny_file()
    few = list(tiny_gguf.metadata().values())[:3]
    yield tiny_gguf.file(few, [tiny_gguf.tensor("x", [4], tiny_gguf.TYPE_F32, 0)], b"\0" * 32)
    for kind, block, size in [(2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (12, 256, 144),
                              (13, 256, 176), (14, 256, 210)]:  # a matrix of each quantised type, and a vector
        data = bytes(i * 37 & 127 for i in range(2 * size))
        rows = [tiny_gguf.tensor("blk.0.ffn_up.weight", [block, 2], kind, 0),
                tiny_gguf.tensor("output_norm.weight", [block], kind, len(data) + -len(data) % 32)]
        yield tiny_gguf.file(few, rows, data + b"\0" * (-len(data) % 32) + data[:size] + b"\0" * (-size % 32))
    for pre in ["llama-bpe", "qwen2", "gpt-2"]:
        yield tiny_gguf.file(few + merged_tokenizer(pre), [], b"")
    for _, data, _ in bad_gguf.cases():
        yield data


def archive(**changed):
    names = list(tiny.files())
    order = ["config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "model.safetensors"]
    assert sorted(names) == sorted(order)
    out = b""
    for i, name in enumerate(order):
        data = changed.get(name.replace(".", "_"), tiny.files()[name])
        out += bytes([i]) + struct.pack("<I", len(data)) + data
    return out


EIGHT_BITS = json.dumps(dict(tiny.CONFIG, quantization_config={"quant_method": "fp8"})).encode()


def eight_bits(scales):
    """The tiny model with matrices of F8_E4M3, and scales of the shape scales(rows, columns)."""
    header, data = {}, b""

    def add(name, dtype, shape, values):
        nonlocal data
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    shapes = list(tiny.shapes())
    for name, shape in shapes:  # elements of four bytes first, so that all are aligned
        if len(shape) == 2:
            of = scales(*shape)
            add(name + "_scale", "F32", of, struct.pack("<f", 1 / 256) * (of[0] if of else 1))
    for name, shape in shapes:
        if len(shape) == 1:
            add(name, "BF16", shape, tiny.bf16([1.0] * shape[0]))
    for name, shape in shapes:
        if len(shape) == 2:
            add(name, "F8_E4M3", shape, bytes(i * 31 % 251 & 0xBF for i in range(shape[0] * shape[1])))
    return tiny.safetensors(header, data)


def fuzz_model():
    yield archive()
    yield archive(config_json=json.dumps(dict(tiny.CONFIG, num_hidden_layers=1)).encode())
    yield archive(model_safetensors=b"")
    yield archive(model_safetensors=eight_bits(lambda n, k: []), config_json=EIGHT_BITS)
    yield archive(model_safetensors=eight_bits(lambda n, k: [n, 1]), config_json=EIGHT_BITS)


def with_score(score):
    """The tiny GGUF file with this score for its first byte piece."""
    pieces = tiny.all_pieces()
    scores = [score if i == 3 else -float(i) for i in range(len(pieces))]
    entries = tiny_gguf.metadata()
    key = "tokenizer.ggml.scores"
    entries[key] = tiny_gguf.entry(key, tiny_gguf.ARRAY, (tiny_gguf.F32, scores))
    return tiny_gguf.tiny_file(list(entries.values()))


def fuzz_convert():
    for type in range(11):
        yield bytes([2 * type]) + archive()
    yield b"\0" + archive(model_safetensors=b"")
    for type in range(3):
        yield bytes([2 * type + 1]) + tiny_gguf.tiny_file()
    rows, data = tiny_gguf.tensors()
    entries = {key: entry for key, entry in tiny_gguf.metadata().items() if not key.startswith("tokenizer.")}
    tensors = [tiny_gguf.tensor(*row) for row in rows]
    for pre in ["llama-bpe", "qwen2"]:
        yield b"\1" + tiny_gguf.file(list(entries.values()) + merged_tokenizer(pre), tensors, data)


def found():
    """(target, input) of everything that once broke one, with what it was."""
    return [  # a user's turn that is not written: cut behind it, an answer was open to the turn before the first
        ("fuzz_session_file", session_file(range(3, 23), [(1, 0, b"the"), (1, 1, b"a")], (19, 17), encoded=0)),
        # a score that only matters for ordinary tokens, taken into a tokenizer.model that no one opens
        ("fuzz_convert", b"\1" + with_score(float("nan"))),
    ]


TARGETS = [fuzz_safetensors, fuzz_index, fuzz_config, fuzz_sentencepiece, fuzz_tokenizer_config, fuzz_chat, fuzz_utf8,
           fuzz_options, fuzz_session, fuzz_session_file, fuzz_model, fuzz_gguf, fuzz_convert,
           fuzz_tokenizer, fuzz_jinja]
WORDS = {
    "fuzz_safetensors": ["__metadata__", "dtype", "shape", "data_offsets", "F32", "F16", "BF16", "F8_E4M3", ".weight_scale"],
    "fuzz_index": ["weight_map", "metadata", "a.safetensors", "b.safetensors", "x", "y"],
    "fuzz_config": list(tiny.CONFIG) + [
        "rope_scaling", "rope_parameters", "rope_type", "type", "factor", "linear", "llama3", "yarn", "longrope",
        "short_factor", "long_factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate",
        "attention_factor", "mscale", "mscale_all_dim", "original_max_position_embeddings", "layer_types",
        "full_attention", "sliding_attention", "sliding_window", "use_sliding_window", "max_window_layers",
        "attention_bias", "attn_logit_softcapping", "query_pre_attn_scalar", "mistral", "qwen2", "qwen3", "gemma2",
        "gemma3_text", "phi3"],
    "fuzz_tokenizer_config": ["added_tokens_decoder", "content", "special", "chat_template", "bos_token", "eos_token",
                              "add_bos_token", "name", "template", "default"],
    "fuzz_tokenizer": [
        "model", "type", "BPE", "vocab", "merges", "unk_token", "byte_fallback", "fuse_unk", "ignore_merges", "dropout",
        "continuing_subword_prefix", "end_of_word_suffix", "added_tokens", "id", "content", "special", "lstrip", "rstrip",
        "single_word", "normalized", "normalizer", "normalizers", "Sequence", "NFC", "NFKC", "NFD", "NFKD", "Replace",
        "Prepend", "prepend", "pattern", "String", "Regex", "Lowercase", "pre_tokenizer", "pretokenizers", "Split",
        "behavior", "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "invert", "ByteLevel", "Digits",
        "individual_digits", "add_prefix_space", "use_regex", "trim_offsets", "Metaspace", "replacement", "prepend_scheme",
        "first", "always", "never", "split", "post_processor", "TemplateProcessing", "SpecialToken", "decoder", "decoders",
        "ByteFallback", "Fuse", "Strip", "start", "stop"],
    "fuzz_jinja": [
        "{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "#}", "for", "in", "endfor", "if", "elif", "else", "endif", "set",
        "endset", "macro", "endmacro", "call", "endcall", "filter", "endfilter", "generation", "endgeneration", "break",
        "continue", "is", "not", "and", "or", "defined", "none", "string", "mapping", "messages", "message", "role",
        "content", "loop", "index0", "first", "last", "previtem", "nextitem", "namespace", "range", "raise_exception",
        "strftime_now", "trim", "tojson", "indent", "join", "split", "replace", "upper", "title", "length", "items",
        "startswith", "selectattr", "map", "list", "reverse", "[::-1]", "add_generation_prompt", "bos_token", "eos_token"],
    "fuzz_gguf": list(tiny_gguf.metadata()) + ["GGUF", "general.alignment", "output_norm.weight", "blk.0.attn_q.weight"],
    "fuzz_model": list(tiny.CONFIG) + ["F8_E4M3", "BF16", "_scale", "_scale_inv", "quantization_config", "quant_method", "fp8"],
    "fuzz_convert": list(tiny.CONFIG) + list(tiny_gguf.metadata()),
    "fuzz_session": ["format", "settings", "messages", "role", "content", "user", "assistant", "system"],
    "fuzz_options": ["--stop", "--temp", "--seed", "--top-k", "-p", "-m", "--logit-bias", "auto", "1=-inf", "32K"],
}


def write(folder):
    for target in TARGETS:
        name = target.__name__
        os.makedirs(f"{folder}/{name}", exist_ok=True)
        inputs = list(target()) + [data for of, data in found() if of == name]
        for i, data in enumerate(inputs):
            with open(f"{folder}/{name}/{i:03}", "wb") as f:
                f.write(data)
        with open(f"{folder}/{name}.dict", "w") as f:
            f.writelines(f'"{word}"\n' for word in WORDS.get(name, ["\\x00"]))


if __name__ == "__main__":
    write(sys.argv[1])
