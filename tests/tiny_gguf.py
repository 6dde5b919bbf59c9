"""A GGUF file in parts, so that tests can spoil any of them; tiny() is that of tiny_model.py."""
import struct

import tiny_model as tiny

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q", I64: "<q",
        F64: "<d"}
TYPE_F32, TYPE_F16, TYPE_Q8_0, TYPE_BF16 = 0, 1, 8, 30


def string(s):
    data = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, v):
    if kind == STRING:
        return string(v)
    if kind == ARRAY:
        of, elements = v
        return struct.pack("<IQ", of, len(elements)) + b"".join(value(of, e) for e in elements)
    return struct.pack(PACK[kind], v)


def entry(key, kind, v):
    return string(key) + struct.pack("<I", kind) + value(kind, v)


def tensor(name, dims, kind, offset):
    return string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d & 2**64 - 1) for d in dims) + \
        struct.pack("<IQ", kind, offset & 2**64 - 1)


def file(entries, tensors, data, magic=b"GGUF", version=3, n_tensors=None, n_entries=None, alignment=32):
    head = magic + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors,
                               len(entries) if n_entries is None else n_entries)
    head += b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


def metadata():
    """Entries by key, in order."""
    pieces = tiny.all_pieces()
    kinds = {tiny.NORMAL: 1, tiny.UNKNOWN: 2, tiny.CONTROL: 3, tiny.BYTE: 6}
    rows = [("general.architecture", STRING, "llama"), ("general.name", STRING, "tiny"),
            ("llama.context_length", U32, tiny.CONTEXT), ("llama.embedding_length", U32, tiny.HIDDEN),
            ("llama.block_count", U32, tiny.LAYERS), ("llama.feed_forward_length", U32, tiny.FFN),
            ("llama.attention.head_count", U32, tiny.HEADS), ("llama.attention.head_count_kv", U32, tiny.KV_HEADS),
            ("llama.attention.key_length", U32, tiny.HEAD_DIM), ("llama.attention.value_length", U32, tiny.HEAD_DIM),
            ("llama.rope.dimension_count", U32, tiny.HEAD_DIM), ("llama.rope.freq_base", F32, 10000.0),
            ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), ("llama.vocab_size", U32, len(pieces)),
            ("tokenizer.ggml.model", STRING, "llama"),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, [text for text, _ in pieces])),
            ("tokenizer.ggml.scores", ARRAY, (F32, [-float(i) for i in range(len(pieces))])),
            ("tokenizer.ggml.token_type", ARRAY, (I32, [kinds[kind] for _, kind in pieces])),
            ("tokenizer.ggml.bos_token_id", U32, 1), ("tokenizer.ggml.eos_token_id", U32, 2),
            ("tokenizer.ggml.unknown_token_id", U32, 0), ("tokenizer.ggml.add_bos_token", BOOL, True),
            ("tokenizer.ggml.add_space_prefix", BOOL, True)]
    return {key: entry(key, kind, v) for key, kind, v in rows}


NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    name = name.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm")
    name = name.replace("model.layers", "blk")
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def tensors():
    """[name, dims (innermost first), type, offset] of each, and the data. Norms are f32, as converters write them."""
    rows, data = [], b""
    for name, shape in tiny.shapes():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        kind = TYPE_F32 if len(shape) == 1 else TYPE_BF16
        values = struct.pack(f"<{n}f", *[1.0] * n) if kind == TYPE_F32 else tiny.bf16(
            ((i * 7919) % 101 - 50) / 120 for i in range(n))
        data += b"\0" * (-len(data) % 32)
        rows.append([gguf_name(name), shape[::-1], kind, len(data)])
        data += values
    return rows, data


def tiny_file(entries=None, rows=None, **header):
    good, data = tensors()
    return file(list(metadata().values()) if entries is None else entries,
                [tensor(*row) for row in (good if rows is None else rows)], data, **header)
