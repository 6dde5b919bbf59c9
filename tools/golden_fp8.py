#!/usr/bin/env python3
"""Writes the records of 8-bit floats in tests/golden/fp8.txt: what PyTorch reads and writes.

    pip install torch numpy
    python3 tools/golden_fp8.py > tests/golden/fp8.txt

Lines as in tests/golden/quants.txt (tools/golden_quants.py): every e4m3 that is a number and its value; values,
those between two e4m3 among them, and what they are rounded to; groups of 128 with a scale and their values.
"""
import numpy as np
import torch

rng = np.random.default_rng(1)


def line(what, kind, blocks, values):
    print(what, kind, blocks.tobytes().hex(), values.astype("<f4").tobytes().hex())


def values_of(codes):
    return torch.from_numpy(codes.copy()).view(torch.float8_e4m3fn).float().numpy()


codes = np.array([c for c in range(256) if c & 0x7F != 0x7F], dtype=np.uint8)
line("decode", "e4m3", codes, values_of(codes))
steps = np.sort(values_of(codes))
middle = ((steps[1:] + steps[:-1]) / 2).astype(np.float32)
for values in (steps, middle, np.nextafter(middle, np.float32(1e9)), np.nextafter(middle, np.float32(-1e9)),
               rng.normal(0, 1, 256).astype(np.float32), rng.normal(0, 0.01, 256).astype(np.float32)):
    rounded = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    line("encode", "e4m3", rounded, values)
for scale in (1.0, 0.00037, 1.5e-5, -2.75):
    group = rng.choice(codes, 128)
    scale = np.float32(scale)
    line("decode", "f8", np.frombuffer(scale.tobytes() + group.tobytes(), dtype=np.uint8),
         (torch.from_numpy(values_of(group)) * torch.tensor(scale)).numpy())
