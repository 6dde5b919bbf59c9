#!/usr/bin/env python3
"""A whole model folder of some 12 KB for tests that open thousands of them: random weights, a tokenizer of 256
bytes and a few words, the turns of Zephyr. `tests/tiny_model.py FOLDER` writes it; others import it.
"""
import functools
import json
import os
import random
import struct
import sys

WORDS = ["\u2581", "a", "b", "e", "t", "h", "th", "the", "\u2581the", "\u2581a", "\n", "."]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
TEMPLATE = ("{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] "
            "+ eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + "
            "eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + message['content'] + "
            "eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n"
            "{% endif %}\n{% endfor %}")
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 16, 24, 2, 2, 1, 8, 2048


# ---- tokenizer.model, a protobuf ModelProto ----

def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text, kind, score=0.0):
    body = field(1, text if isinstance(text, bytes) else text.encode()) + field(2, score)
    return field(1, body + (field(3, kind) if kind != NORMAL else b""))


def all_pieces():
    return ([("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)] + [(b, BYTE) for b in BYTES] +
            [(w, NORMAL) for w in WORDS])


def tokenizer_model(pieces=None, trainer=b"", normalizer=b""):
    out = b""
    for i, (text, kind) in enumerate(pieces if pieces is not None else all_pieces()):
        out += piece(text, kind, -float(i) if kind == NORMAL else 0.0)
    out += field(2, field(3, 2) + field(35, 1) + trainer)  # BPE, byte_fallback
    return out + field(3, field(3, 1) + field(4, 0) + field(5, 1) + normalizer)


VOCAB = len(all_pieces())


# ---- model.safetensors ----

def shapes():
    yield "model.embed_tokens.weight", [VOCAB, HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", [HIDDEN]
        yield at + "post_attention_layernorm.weight", [HIDDEN]
        yield at + "self_attn.q_proj.weight", [HEADS * HEAD_DIM, HIDDEN]
        yield at + "self_attn.k_proj.weight", [KV_HEADS * HEAD_DIM, HIDDEN]
        yield at + "self_attn.v_proj.weight", [KV_HEADS * HEAD_DIM, HIDDEN]
        yield at + "self_attn.o_proj.weight", [HIDDEN, HEADS * HEAD_DIM]
        yield at + "mlp.gate_proj.weight", [FFN, HIDDEN]
        yield at + "mlp.up_proj.weight", [FFN, HIDDEN]
        yield at + "mlp.down_proj.weight", [HIDDEN, FFN]


def bf16(values):
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def safetensors(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def model_safetensors(seed=1):
    numbers, header, data = random.Random(seed), {}, b""
    for name, shape in shapes():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        scale = 1.0 if len(shape) == 1 else 0.4
        values = bf16(scale + 0.1 * numbers.gauss(0, 1) if len(shape) == 1 else scale * numbers.gauss(0, 1)
                      for _ in range(n))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    return safetensors(header, data)


# ---- the folder ----

CONFIG = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": FFN,
          "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
          "head_dim": HEAD_DIM, "max_position_embeddings": CONTEXT, "rope_theta": 10000.0,
          "rms_norm_eps": 1e-05, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1,
          "eos_token_id": 2}
TOKENIZER_CONFIG = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}


@functools.lru_cache(None)
def files():
    return {"config.json": json.dumps(CONFIG).encode(),
            "generation_config.json": json.dumps({"temperature": 0.8, "top_p": 0.9, "top_k": 20}).encode(),
            "tokenizer_config.json": json.dumps(TOKENIZER_CONFIG).encode(),
            "tokenizer.model": tokenizer_model(),
            "model.safetensors": model_safetensors()}


def write(folder):
    os.makedirs(folder, exist_ok=True)
    for name, data in files().items():
        with open(f"{folder}/{name}", "wb") as f:
            f.write(data)


if __name__ == "__main__":
    write(sys.argv[1])
