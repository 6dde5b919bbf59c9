#!/usr/bin/env python3
"""outrider convert with the shipped pair: to GGUF and back, the same text and the same tensors; each type loads;
what fails leaves nothing behind."""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
VERIFIER, DRAFT = "weights/tale/verifier", "weights/tale/draft"
BLOCKS = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"]


def outrider(*args):
    return subprocess.run([OUTRIDER, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)


def convert(model, output, *more):
    return outrider("convert", "-m", model, "-o", output, *more)


def text(model, *more):
    done = outrider("run", "-m", model, "-p", "Once upon a time", "-n", "64", "--temp", "0", *more)
    return done.stdout if done.returncode == 0 and done.stdout else done.stderr


def tensors(folder):
    with open(f"{folder}/model.safetensors", "rb") as f:
        data = f.read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    return {name: (t["shape"], data[start + t["data_offsets"][0] : start + t["data_offsets"][1]])
            for name, t in header.items() if name != "__metadata__" and len(t["shape"]) == 2}


def check_sum(model, kind, path):
    """The file is one that the `gguf` package has read: see tools/golden_converted.py."""
    with open("tests/golden/converted.txt") as f:
        known = {tuple(line.split()[:2]): line.split()[3] for line in f}
    with open(path, "rb") as f:
        check(f"{model} as {kind} is byte for byte a file that others have read",
              hashlib.sha256(f.read()).hexdigest() == known[model, kind])


def round_trip(folder):
    verifier, draft, back = f"{folder}/verifier.gguf", f"{folder}/draft.gguf", f"{folder}/back"
    for model, output in ((VERIFIER, verifier), (DRAFT, draft)):
        done = convert(model, output)
        check(f"{os.path.basename(output)} is written", done.returncode == 0 and not done.stderr, done.stderr)
    check_sum("draft", "bf16", draft)
    expected = text(VERIFIER)
    check("a GGUF file writes the same text", text(verifier) == expected, text(verifier))
    check("a pair of GGUF files writes the same text", text(verifier, "-md", draft) == expected)
    check("a draft folder serves a GGUF verifier", text(verifier, "-md", DRAFT) == expected)
    os.mkdir(f"{folder}/holds")
    shutil.copy(verifier, f"{folder}/holds")
    check("a folder that holds a GGUF file", text(f"{folder}/holds") == expected)
    done = convert(verifier, back)
    check("a folder is written", done.returncode == 0, done.stderr)
    check("its matrices are those it came from", tensors(back) == tensors(VERIFIER))
    check("it writes the same text", text(back) == expected, text(back))
    with open(f"{back}/tokenizer_config.json") as f, open(f"{VERIFIER}/tokenizer_config.json") as g:
        check("its chat template is the same", json.load(f)["chat_template"] == json.load(g)["chat_template"])
    return verifier


def types(folder):
    for kind in ["f32", "f16", *BLOCKS]:
        path = f"{folder}/{kind}.gguf"
        done = convert(DRAFT, path, "--type", kind)
        told = outrider("inspect", "-m", path, "--json")
        check(f"{kind} is written and told", done.returncode == 0 and told.returncode == 0, done.stderr + told.stderr)
        if told.returncode == 0:
            model = json.loads(told.stdout)["verifier"]
            # rows of the draft are no whole blocks of 256
            own = "q8_0" if kind.endswith("_k") else kind
            check(f"{kind} is what inspect calls it", model["file_dtype"] == own, model["file_dtype"])
        answer = outrider("run", "-m", path, "-p", "Once", "-n", "8", "--temp", "0")
        check(f"{kind} writes text", answer.returncode == 0 and answer.stdout, answer.stderr)
        if not kind.endswith("_k"):
            check_sum("draft", kind, path)


def mixed(folder):
    """Of the verifier's rows only those of down are whole blocks of 256: its MLP mixes q8_0 and q4_k."""
    for kind in BLOCKS:
        if not kind.endswith("_k"):
            continue
        path = f"{folder}/mixed-{kind}.gguf"
        done = convert(VERIFIER, path, "--type", kind)
        answer = outrider("run", "-m", path, "-p", "Once", "-n", "8", "--temp", "0")
        check(f"a layer of mixed types, {kind}, writes text", done.returncode == answer.returncode == 0,
              done.stderr + answer.stderr)
        check_sum("verifier", kind, path)


def refusals(folder, gguf):
    cases = [("an output that exists", 2, (VERIFIER, gguf)),
             ("an unknown type", 2, (VERIFIER, f"{folder}/x.gguf", "--type", "q3_k")),
             ("blocks in a folder", 2, (gguf, f"{folder}/x", "--type", "q8_0")),
             ("GGUF to GGUF", 2, (gguf, f"{folder}/x.gguf")),
             ("a folder to a folder", 2, (VERIFIER, f"{folder}/x")),
             ("no such folder for the output", 1, (VERIFIER, f"{folder}/none/x.gguf")),
             ("no such model", 3, (f"{folder}/none", f"{folder}/x.gguf"))]
    before = sorted(os.listdir(folder))
    for name, code, args in cases:
        done = convert(*args)
        told = done.stderr.decode(errors="replace")
        check(name, done.returncode == code and told.count("\n") == 1 and not done.stdout, f"{done.returncode} {told}")
    check("nothing is left behind", sorted(os.listdir(folder)) == before, os.listdir(folder))


def main():
    with tempfile.TemporaryDirectory() as folder:
        gguf = round_trip(folder)
        types(folder)
        mixed(folder)
        refusals(folder, gguf)
    finish()


if __name__ == "__main__":
    main()
