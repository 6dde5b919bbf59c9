#!/usr/bin/env python3
"""The fuzz targets over the inputs of fuzz_corpus.py, without a fuzzer: each input as it is, and for the readers
every prefix of a good file and 10,000 flipped bits. `make fuzz` goes on from there with libFuzzer.
"""
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fuzz_corpus
import tiny_model

BUILD = os.environ.get("BUILD", "build")
# Of the first input of these, which is a good file: every prefix, and so many flipped bits.
FLIPS = {"fuzz_safetensors": 10000, "fuzz_index": 2000, "fuzz_config": 10000, "fuzz_sentencepiece": 2000,
         "fuzz_tokenizer_config": 1000, "fuzz_session": 1000, "fuzz_gguf": 2000,
         "fuzz_session_file": 1000, "fuzz_tokenizer": 1000, "fuzz_jinja": 3000}
MODEL_FLIPS = 2000  # each opens a whole model


def replay(name, arguments, environment):
    start = time.monotonic()
    done = subprocess.run([f"{BUILD}/tests/{name}", *arguments], env=environment, capture_output=True, timeout=600)
    tail = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        print(f"ok {name} {' '.join(arguments[:-1])}: {tail.splitlines()[-1]}, {time.monotonic() - start:.1f} s")
    else:
        print(f"FAIL {name} {' '.join(arguments)}: exit {done.returncode}: {tail[-2000:]}")
    sys.stdout.flush()
    return done.returncode == 0


def main():
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        fuzz_corpus.write(folder)
        tiny_model.write(f"{folder}/tiny")
        environment = dict(os.environ, TINY=f"{folder}/tiny")
        for target in fuzz_corpus.TARGETS:
            name = target.__name__
            fine &= replay(name, [f"{folder}/{name}"], environment)
            if name in FLIPS:
                flips = ["--prefixes", "--flips", str(FLIPS[name]), f"{folder}/{name}/000"]
                fine &= replay(name, flips, environment)
        for name in ["fuzz_model", "fuzz_convert"]:
            fine &= replay(name, ["--flips", str(MODEL_FLIPS), f"{folder}/{name}/000"], environment)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
