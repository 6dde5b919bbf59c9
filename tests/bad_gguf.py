"""Bad GGUF files, one spoilt thing each: cases() yields (name, bytes, what the line must name), as
`outrider inspect` reads it."""
import struct

import tiny_gguf as g

GOOD, ROWS = g.metadata(), g.tensors()[0]


def with_entry(key, kind, value):
    return g.tiny_file(list(dict(GOOD, **{key: g.entry(key, kind, value)}).values()))


def raw_entry(key, data):
    return g.tiny_file(list(GOOD.values()) + [g.string(key) + data])


def without(key):
    return g.tiny_file([e for k, e in GOOD.items() if k != key])


def with_tensor(i, **fields):
    rows = [list(row) for row in ROWS]
    for at, field in enumerate(["name", "dims", "kind", "offset"]):
        rows[i][at] = fields.get(field, rows[i][at])
    return g.tiny_file(rows=rows)


def header_cases():
    good = g.tiny_file()
    for keep in [4, 7, 8, 16, 23, 24, 25, 40, 1000, len(good) - 2000, len(good) - 1]:
        yield f"cut to {keep} bytes", good[:keep], "gguf"
    for magic in [b"GGUL", b"gguf", b"FUGG", b"\0\0\0\0"]:
        yield f"magic {magic}", g.tiny_file(magic=magic), "gguf"
    for version in [0, 1, 4, 2**24 * 3, 2**32 - 1]:
        yield f"version {version}", g.tiny_file(version=version), "version"
    for n in [len(ROWS) + 1, 65537, 2**31, 2**32, 2**60, 2**63, 2**64 - 1]:
        yield f"{n} tensors", g.tiny_file(n_tensors=n), "gguf"
    for n in [len(GOOD) + 1, 65537, 2**31, 2**60, 2**64 - 1]:
        yield f"{n} entries", g.tiny_file(n_entries=n), "gguf"


def entry_cases():
    yield "an empty key", g.tiny_file([g.entry("", g.U32, 1)] + list(GOOD.values())), "key"
    yield "a key twice", g.tiny_file(list(GOOD.values()) + [GOOD["llama.block_count"]]), "llama.block_count"
    yield "a key of control characters", g.tiny_file([g.entry("\x1b[2J", g.U32, 1)] + list(GOOD.values())), "key"
    for n in [2**31, 2**63, 2**64 - 1]:
        yield f"a key of {n} bytes", g.tiny_file([struct.pack("<Q", n) + b"x"] + list(GOOD.values())), "gguf"
        yield f"a string of {n} bytes", raw_entry("x", struct.pack("<IQ", g.STRING, n)), "x"
        yield f"an array of {n} bytes", raw_entry("x", struct.pack("<IIQ", g.ARRAY, g.U8, n)), "x"
        yield f"an array of {n} numbers", raw_entry("x", struct.pack("<IIQ", g.ARRAY, g.F64, n)), "x"
        yield f"an array of {n} strings", raw_entry("x", struct.pack("<IIQ", g.ARRAY, g.STRING, n)), "x"
    for kind in [13, 255, 2**31, 2**32 - 1]:
        yield f"type {kind}", raw_entry("x", struct.pack("<IQ", kind, 0)), "x"
        yield f"an array of type {kind}", raw_entry("x", struct.pack("<IIQ", g.ARRAY, kind, 1) + b"\0" * 8), "x"
    yield "an array of arrays", raw_entry("x", struct.pack("<IIQ", g.ARRAY, g.ARRAY, 1) + b"\0" * 12), "x"
    for alignment in [0, 1, 3, 7, 24, 2**21, 2**31, 2**32 - 1]:
        yield f"alignment {alignment}", with_entry("general.alignment", g.U32, alignment), "general.alignment"
    yield "alignment of text", with_entry("general.alignment", g.STRING, "32"), "general.alignment"


def config_cases():
    for key in ["context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"]:
        key = "llama." + key
        yield f"no {key}", without(key), "gguf"
        for kind, v in [(g.U32, 0), (g.I32, -1), (g.U32, 2**31), (g.U64, 2**63), (g.STRING, "16"), (g.F32, 16.0)]:
            yield f"{key} {v} of type {kind}", with_entry(key, kind, v), "gguf"
    yield "no architecture", without("general.architecture"), "general.architecture"
    for kind, v in [(g.STRING, "mamba"), (g.STRING, ""), (g.U32, 1), (g.STRING, b"\xff"), (g.STRING, "x" * 5000)]:
        yield f"architecture {str(v)[:20]}", with_entry("general.architecture", kind, v), "general.architecture"
    for v in [0.0, -1.0, float("nan"), float("inf")]:
        yield f"rope {v}", with_entry("llama.rope.freq_base", g.F32, v), "rope"
        yield f"epsilon {v}", with_entry("llama.attention.layer_norm_rms_epsilon", g.F32, v), "eps"
    yield "a head of 3", with_entry("llama.attention.key_length", g.U32, 3), "gguf"


def tensor_cases():
    for dims in [[], [1] * 5, [0], [-1], [2**31], [2**62], [2**63 - 1], [2**32, 2**32], [2**61, 8], [17]]:
        yield f"dims {dims}", with_tensor(1, dims=dims), "output_norm"
    for kind in [4, 5, 9, 99, 2**31, 2**32 - 1]:
        yield f"tensor type {kind}", with_tensor(1, kind=kind), "output_norm"
    end = ROWS[-1][3] + 1000
    for offset in [1, 31, -32, end * 32, 2**62, 2**63, 0]:
        yield f"offset {offset}", with_tensor(1, offset=offset), "gguf"
    yield "a quantised row of 16", with_tensor(1, kind=g.TYPE_Q8_0), "output_norm"
    for name in ["", "x" * 65, "token_embd.weight", "\x1b[31m"]:
        yield f"a tensor called {name[:20]!r}", with_tensor(1, name=name), "gguf"
    for missing in ["blk.1.attn_q.weight", "blk.0.ffn_norm.weight"]:
        rows = [row for row in ROWS if row[0] != missing]
        named = {"attn_q": "model.layers.1.self_attn.q_proj", "ffn_norm": "model.layers.0.post_attention_layernorm"}
        yield f"no {missing}", g.tiny_file(rows=rows), named[missing.split(".")[2]]
    yield "no tensors", g.file(list(GOOD.values()), [], b""), "gguf"


def cases():
    for group in [header_cases, entry_cases, config_cases, tensor_cases]:
        for case in group():
            yield case
