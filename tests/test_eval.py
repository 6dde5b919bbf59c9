"""outrider eval: what it says of precisions and models, against the same figures computed here from the logits
that the library's scorer gives."""
import ctypes
import json
import math
import os
import subprocess
import tempfile

import tiny_model
from checks import check, finish

BUILD = os.environ.get("BUILD", "build")
OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
TALE = "weights/tale"
TEXT = open("tests/data/held-out.txt").read()[:420]
SANITIZED = b"__asan_init" in open(f"{BUILD}/liboutrider.so", "rb").read()


def outrider(*args, stdin=TEXT):
    return subprocess.run([OUTRIDER, "eval", "-f", "-", *args], input=stdin, capture_output=True, text=True, timeout=300)


def rows_of(*args):
    done = outrider("-o", "json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- the library, through ctypes ----

class EngineOptions(ctypes.Structure):
    _fields_ = [("model", ctypes.c_char_p), ("rest", ctypes.c_byte * 512)]


def logits_of(model, text):
    """Tokens, beginning first, and a list of logits after each but the last."""
    lib = ctypes.CDLL(f"{BUILD}/liboutrider.so")
    lib.outrider_engine_defaults.restype = EngineOptions
    lib.outrider_error.restype = ctypes.c_char_p
    pointer, size = ctypes.c_void_p, ctypes.c_size_t()

    def call(name, *arguments):
        assert getattr(lib, f"outrider_{name}")(*arguments) == 0, lib.outrider_error()

    options, engine, scorer = lib.outrider_engine_defaults(), pointer(), pointer()
    options.model = model.encode()
    call("engine_open", ctypes.byref(options), ctypes.byref(engine))
    ids = ctypes.POINTER(ctypes.c_int32)()
    call("tokenize", engine, text.encode(), ctypes.c_size_t(len(text.encode())), ctypes.byref(ids), ctypes.byref(size))
    tokens = [1] + ids[: size.value]  # the shipped pair begins with its first control token
    vocab = json.load(open(f"{model}/config.json"))["vocab_size"]
    logits, out = [], ctypes.POINTER(ctypes.c_float)()
    call("scorer_open", engine, ctypes.byref(scorer))
    for at in range(0, len(tokens) - 1, 64):
        part = tokens[at : min(at + 64, len(tokens) - 1)]
        call("scorer_read", scorer, (ctypes.c_int32 * len(part))(*part), len(part), ctypes.byref(out))
        logits += [out[i * vocab : (i + 1) * vocab] for i in range(len(part))]
    lib.outrider_scorer_close.argtypes = lib.outrider_engine_close.argtypes = [pointer]
    lib.outrider_scorer_close(scorer)
    lib.outrider_engine_close(engine)
    return tokens, logits


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


def test_against_logits():
    if SANITIZED:
        return  # Python cannot load it
    tokens, p = logits_of(f"{TALE}/verifier", TEXT)
    _, q = logits_of(f"{TALE}/draft", TEXT)
    p, q = [log_softmax(r) for r in p], [log_softmax(r) for r in q]
    kl = sorted(sum(math.exp(a) * (a - b) for a, b in zip(x, y)) for x, y in zip(p, q))
    same = sum(x.index(max(x)) == y.index(max(y)) for x, y in zip(p, q)) / len(p)
    nats = [-sum(r[t] for r, t in zip(rows, tokens[1:])) / len(rows) for rows in (p, q)]
    def error(values):
        mean = sum(values) / len(values)
        return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) / (len(values) - 1))

    each = [[-r[t] for r, t in zip(rows, tokens[1:])] for rows in (p, q)]
    over = math.exp(nats[1] - nats[0])
    first, second = rows_of("--ab", f"{TALE}/verifier", f"{TALE}/draft")
    check("and its error that of their mean", math.isclose(first["perplexity_error"], math.exp(nats[0]) * error(each[0]), rel_tol=1e-4), first)
    check("the ratio's of their differences", math.isclose(second["over_reference_error"], over * error([b - a for a, b in zip(*each)]), rel_tol=1e-3), second)
    for row, want in ((first, nats[0]), (second, nats[1])):
        check("perplexity is that of the logits", math.isclose(row["perplexity"], math.exp(want), rel_tol=1e-5), (row, want))
    check("so are the KL divergence and its 99% point",
          math.isclose(second["kl_mean"], sum(kl) / len(kl), rel_tol=1e-4)
          and math.isclose(second["kl_99"], kl[(len(kl) - 1) * 99 // 100], rel_tol=1e-4)
          and math.isclose(second["kl_50"], kl[(len(kl) - 1) // 2], rel_tol=1e-4), (second, sum(kl) / len(kl)))
    check("and the share of equal likeliest tokens", math.isclose(second["top1"], same, rel_tol=1e-9), (second, same))
    check("the reference is compared with nothing", first["kl_mean"] is None and first["top1"] is None, first)


def test_precisions():
    rows = rows_of("--quant", "none,q8,q4")
    none, q8, q4 = rows
    check("a row for each precision", [r["dtype"] for r in rows] == ["bf16", "q8_0", "q4_0"], rows)
    check("fewer bits are further away", 0 < q8["kl_mean"] < 0.005 < q4["kl_mean"] and q8["top1"] > q4["top1"] > 0.5
          and q8["kl_mean"] < q8["kl_99"], rows)
    check("and take less", none["streamed_bytes"] > q8["streamed_bytes"] > q4["streamed_bytes"]
          and all(r["predicted_per_second"] > 0 and r["read_per_second"] > 0 for r in rows), rows)
    said = outrider("--quant", "none,q8").stdout
    check("the same in a table", f"{q8['perplexity']:.4f}" in said and "q8_0" in said, said)
    alone = rows_of("--quant", "q4")
    check("one alone scores the same", alone["nats_per_token"] == q4["nats_per_token"], (alone, q4))


def test_quality():
    """What README's table promises, on the whole text."""
    if SANITIZED:
        return  # minutes
    text = open("tests/data/held-out.txt").read()
    none, q8, q4 = (json.loads(outrider("--quant", q, "--json", stdin=text).stdout)["perplexity"]
                    for q in ("none", "q8", "q4"))
    check("q8 stays within 0.2% of bf16", abs(q8 / none - 1) < 0.002, (none, q8))
    check("q4 stays within 4% of bf16", abs(q4 / none - 1) < 0.04, (none, q4))


def test_settings():
    same = rows_of("--ab", "-t 1", "-t 2")
    check("threads change nothing", same[1]["kl_99"] == 0 and same[1]["top1"] == 1
          and same[0]["perplexity"] == same[1]["perplexity"], same)
    cache = rows_of("--ab", "-ctk f16", "-ctk q8 --quant q8")
    check("a side has several options", cache[1]["cache_bytes"] < cache[0]["cache_bytes"] and cache[1]["dtype"] == "q8_0"
          and 0 < cache[1]["kl_mean"] < 0.01, cache)
    for name, args, says in (("one side", ["--ab", "x"], "--ab A B"), ("an unknown option", ["--ab", "-t 1", "--quanta q4"], "quanta"),
                             ("no precision", ["--quant", "q7"], "q7"), ("two windows", ["--ab", "-c 512", "-c 64"], "--ctx-size 64")):
        done = outrider(*args)
        check(f"refused: {name}", done.returncode == 2 and says in done.stderr and not done.stdout, done)


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def test_prompts():
    """Answers to prompts: the texts are those that run writes, and are compared to the byte."""
    prompts = [json.loads(line)["prompt"] for line in list(open("tests/data/prompts.jsonl"))[:3]]
    sides = [["-m", f"{TALE}/verifier"], ["-m", f"{TALE}/verifier", "--quant", "q4"]]

    def written(side, prompt):
        done = subprocess.run([OUTRIDER, "run", *side, "-p", prompt, "-n", "12", "--temp", "0", "--spec-type", "none"], capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(*args, text=None):
        done = subprocess.run([OUTRIDER, "eval", "--prompts", path, "-n", "12", *args], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/prompts"
        with open(path, "w") as out:
            out.writelines(json.dumps({"prompt": p}) + "\n" for p in prompts)
        pairs = [[written(side, p) for side in sides] for p in prompts]
        one, other = json.loads(ask("--json", "--ab", *(" ".join(s) for s in sides)))
        part = sum(common(a, b) / len(a) for a, b in pairs) / len(pairs)
        check("answers are compared to the byte", math.isclose(other["answers"]["same_up_to"], part, rel_tol=1e-9)
              and math.isclose(other["answers"]["same_text"], sum(a == b for a, b in pairs) / len(pairs)), (other, pairs))
        check("counted and timed", other["answers"]["n"] == 3 and other["answers"]["n_tokens"] == 33
              and other["answers"]["speedup"] > 0 and one["answers"]["speedup"] == 1, (one, other))
        check("without a text there is no perplexity", "perplexity" not in one, one)
        same = json.loads(ask("--json", "--ab", "-t 1", "-t 2"))
        check("the same model answers the same", same[1]["answers"]["same_text"] == same[1]["answers"]["same_up_to"] == 1, same)
        said = ask("--quant", "none,q4", "-f", "-", text=TEXT)
        check("with a text both tables are shown", "perplexity" in said and f"{100 * part:.1f}%" in said, said)
        check("one model's speed alone", "answer t/s" in ask() and "perplexity" not in ask())
        tiny = f"{folder}/tiny"
        os.mkdir(tiny)
        tiny_model.write(tiny)
        open(path, "w").write('{"prompt": "abab"}\n')
        check("other vocabularies are compared too", json.loads(ask("--json", "--ab", f"{TALE}/draft", tiny))[1]["answers"]["same_text"] == 0)
        open(path, "w").write("{}\n")
        done = outrider("--prompts", path)
        check("a line without a prompt is told", done.returncode == 1 and "line 1" in done.stderr and not done.stdout, done)


def test_other_tokens():
    """A text that the second model cuts otherwise: no comparison place by place, and that is said."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_model.write(folder)
        done = outrider("--ab", f"{TALE}/verifier", folder, stdin="abab")
        check("other tokens are told", done.returncode == 0 and "other tokens" in done.stdout, done)


def test_not_numbers():
    with tempfile.TemporaryDirectory() as folder:
        for name in os.listdir(f"{TALE}/draft"):
            data = bytearray(open(f"{TALE}/draft/{name}", "rb").read())
            if name == "model.safetensors":
                header = int.from_bytes(data[:8], "little")
                begin, end = json.loads(data[8 : 8 + header])["model.norm.weight"]["data_offsets"]
                data[8 + header + begin : 8 + header + end] = b"\xC0\x7F" * ((end - begin) // 2)
            open(f"{folder}/{name}", "wb").write(data)
        for args in ([], ["--ab", f"{TALE}/draft", folder]):
            done = outrider(*(args or ["-m", folder]))
            check("logits that are not numbers are an error", done.returncode == 1 and not done.stdout
                  and "not numbers" in done.stderr and len(done.stderr.splitlines()) == 1, done)


for test in (test_against_logits, test_precisions, test_quality, test_settings, test_prompts, test_other_tokens, test_not_numbers):
    test()
finish()
