#!/usr/bin/env python3
"""Writes tests/golden/quants.txt: blocks of every GGUF type and what the `gguf` package reads and writes.

    pip install gguf numpy
    python3 tools/golden_quants.py > tests/golden/quants.txt

A line is "decode TYPE BLOCKS VALUES" or "encode TYPE BLOCKS VALUES", both in hex: the blocks' bytes and the
values as little-endian f32. "decode" has random blocks (any bit pattern but scales that are no numbers);
"encode" has values and the blocks that the package makes of them (it makes no K types; our Q4_0 has
better scales than its).
"""
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

TYPES = [T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K]
SCALES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
          T.Q6_K: [208], T.F16: [0], T.BF16: [0]}  # where f16 numbers stand
ENCODED = [T.F16, T.BF16, T.Q8_0, T.Q4_1, T.Q5_0, T.Q5_1]
rng = np.random.default_rng(1)


def line(what, kind, blocks, values):
    print(what, kind.name.lower(), blocks.tobytes().hex(), values.astype("<f4").tobytes().hex())


def decoded(kind, n):
    bytes_each = GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (n, bytes_each), dtype=np.uint8)
    for at in SCALES[kind]:
        blocks[:, at + 1] &= 0xBB  # an exponent of all ones would be no number
    line("decode", kind, blocks, quants.dequantize(blocks, kind))


def encoded(kind, values):
    line("encode", kind, quants.quantize(values.astype(np.float32), kind), values)


for kind in TYPES:
    decoded(kind, 3 if GGML_QUANT_SIZES[kind][0] == 256 else 64 if GGML_QUANT_SIZES[kind][0] == 1 else 6)
for kind in ENCODED:
    encoded(kind, rng.normal(0, 0.02, (1, 32)))
    encoded(kind, rng.normal(0.3, 5, (1, 32)))
    encoded(kind, rng.normal(0, 1e-7, (1, 32)))
    encoded(kind, np.zeros((1, 32)))
    encoded(kind, np.full((1, 32), -0.75))
    encoded(kind, rng.integers(-8, 8, (1, 32)) * 0.125)  # values on the borders between integers
    encoded(kind, rng.integers(-127, 128, (1, 32)) * 0.5)
