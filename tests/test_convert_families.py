#!/usr/bin/env python3
"""A tiny random model of each family, as a folder, as the GGUF file that convert makes of it, and as the folder that
convert makes of that, writes the same text: names, rows in pairs, norms with 1 added, windows, RoPE scaling, and
tokenizers of both kinds survive."""
import json
import os
import subprocess
import tempfile

from checks import check, finish
from tiny_families import BYTE_LEVEL, FAMILIES, make

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")


def answer(model):
    done = subprocess.run([OUTRIDER, "run", "-m", model, "-p", "Once upon a time there was", "-n", "48", "--temp", "0",
                           "--ignore-eos"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace") if done.returncode else ""


def same_tokenizer(family, folder, back):
    """The tokenizer.json that comes back has the tokens, merges and steps of the one that went."""
    if family not in BYTE_LEVEL:
        return True

    def parts(path):
        with open(f"{path}/tokenizer.json") as f:
            t = json.load(f)
        special = {a["content"]: (a["id"], a["special"]) for a in t["added_tokens"]}
        vocab = {k: v for k, v in t["model"]["vocab"].items() if k not in special}
        merges = [m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]]
        pattern = [s["pattern"] for s in t["pre_tokenizer"]["pretokenizers"] if s["type"] == "Split"]
        return special, vocab, merges, pattern, (t["normalizer"] or {}).get("type"), t["model"].get("ignore_merges", False)
    return parts(folder) == parts(back)


def main():
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as top:
            folder, gguf = f"{top}/model", f"{top}/model.gguf"
            os.mkdir(folder)
            make(family, folder)
            done = subprocess.run([OUTRIDER, "convert", "-m", folder, "-o", gguf], capture_output=True, timeout=60)
            back = f"{top}/back"
            again = subprocess.run([OUTRIDER, "convert", "-m", gguf, "-o", back], capture_output=True, timeout=60)
            expected, got, third = answer(folder), answer(gguf), answer(back)
            right = (done.returncode == again.returncode == 0 and expected == got == third and expected[0] == 0
                     and expected[1] and same_tokenizer(family, folder, back))
            check(family, right, (done.stderr, again.stderr, expected, got, third))
    finish()


if __name__ == "__main__":
    main()
