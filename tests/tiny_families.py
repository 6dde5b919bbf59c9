#!/usr/bin/env python3
"""A tiny random model of each family as a folder, 7 layers with each family's names, norms, windows and RoPE scaling:
`tests/tiny_families.py FOLDER` writes one folder a family there; others import it."""
import json
import os
import random
import shutil
import struct
import sys

BYTE_LEVEL = {"qwen2": "qwen2", "qwen3": "qwen2", "llama": "llama3", "mistral": "llama3"}
FAMILIES = {
    "llama": {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
    "mistral": {"sliding_window": 24},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 16},
    "phi3": {"sliding_window": 100, "max_position_embeddings": 512, "original_max_position_embeddings": 256,
             "rope_scaling": {"type": "longrope", "short_factor": [1 + i / 8 for i in range(8)],
                              "long_factor": [1 + i for i in range(8)]}},
}
LAYERS, HIDDEN, FFN, HEAD, Q, KV = 7, 64, 96, 16, 64, 32


def copy_tokenizer(family, folder):
    """Returns the size of the vocabulary and the id of an end token."""
    if family not in BYTE_LEVEL:
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(f"weights/tale/draft/{name}", folder)
        return 8192, 2
    shutil.copy(f"tests/golden/tokenizers/{BYTE_LEVEL[family]}/tokenizer.json", folder)
    with open(f"{folder}/tokenizer.json") as f:
        tokenizer = json.load(f)
    added = tokenizer["added_tokens"]
    ids = [*tokenizer["model"]["vocab"].values(), *(t["id"] for t in added)]
    return max(ids) + 1, next((t["id"] for t in added if t["special"]), max(ids))


def shapes(family, vocab):
    yield "model.embed_tokens", [vocab, HIDDEN]
    yield "model.norm", [HIDDEN]
    for layer in range(LAYERS):
        own = {"input_layernorm": [HIDDEN], "post_attention_layernorm": [HIDDEN], "self_attn.o_proj": [HIDDEN, Q],
               "mlp.down_proj": [HIDDEN, FFN]}
        if family == "phi3":
            own |= {"self_attn.qkv_proj": [Q + 2 * KV, HIDDEN], "mlp.gate_up_proj": [2 * FFN, HIDDEN]}
        else:
            own |= {"self_attn.q_proj": [Q, HIDDEN], "self_attn.k_proj": [KV, HIDDEN],
                    "self_attn.v_proj": [KV, HIDDEN], "mlp.gate_proj": [FFN, HIDDEN], "mlp.up_proj": [FFN, HIDDEN]}
        if family in ("qwen3", "gemma3_text"):
            own |= {"self_attn.q_norm": [HEAD], "self_attn.k_norm": [HEAD]}
        if family.startswith("gemma"):
            own |= {"pre_feedforward_layernorm": [HIDDEN], "post_feedforward_layernorm": [HIDDEN]}
        for name, shape in own.items():
            yield f"model.layers.{layer}.{name}", shape


def make(family, folder):
    vocab, end = copy_tokenizer(family, folder)
    config = {"model_type": family, "vocab_size": vocab, "hidden_size": HIDDEN, "intermediate_size": FFN,
              "num_hidden_layers": LAYERS, "num_attention_heads": Q // HEAD, "num_key_value_heads": KV // HEAD,
              "head_dim": HEAD, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
              "bos_token_id": end, "eos_token_id": end} | FAMILIES[family]
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f)
    tensors = {f"{name}.weight": shape for name, shape in shapes(family, vocab)}
    if family == "qwen2":
        tensors |= {name.replace("weight", "bias"): shape[:1] for name, shape in tensors.items()
                    if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))}
    numbers, header, data = random.Random(3), {}, bytearray()
    for name, shape in tensors.items():
        begin, around = len(data), 1 if "norm" in name and not family.startswith("gemma") else 0
        for _ in range(shape[0] * (shape[1] if len(shape) > 1 else 1)):
            data += struct.pack("<f", around + numbers.uniform(-0.5, 0.5))[2:]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    for name in FAMILIES:
        os.makedirs(f"{sys.argv[1]}/{name}", exist_ok=True)
        make(name, f"{sys.argv[1]}/{name}")
