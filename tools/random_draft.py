#!/usr/bin/env python3
"""Write a draft of random weights: a model of the same shape and tokenizer as the one given, whose proposals are
worth nothing. For tests of what a useless draft costs.

usage: random_draft.py MODEL OUT      needs nothing but Python
"""
import array
import json
import os
import random
import shutil
import struct
import sys


def bf16(value):
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


def main(model, out):
    rng = random.Random(1)
    some = [bf16(rng.gauss(0, 0.05)) for _ in range(1 << 16)]
    with open(f"{model}/model.safetensors", "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = f.read(size)
    tensors = {name: t for name, t in json.loads(header).items() if name != "__metadata__"}
    if any(t["dtype"] != "BF16" for t in tensors.values()):
        sys.exit("random_draft.py: only for models in BF16")
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", size) + header)
        for name, t in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
            n = (t["data_offsets"][1] - t["data_offsets"][0]) // 2
            one = "norm" in name
            f.write(array.array("H", [bf16(1.0)] * n if one else rng.choices(some, k=n)).tobytes())
    for name in ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"):
        if os.path.exists(f"{model}/{name}"):
            shutil.copyfile(f"{model}/{name}", f"{out}/{name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
