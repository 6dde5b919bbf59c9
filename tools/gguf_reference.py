#!/usr/bin/env python3
"""Writes a GGUF file of a Llama folder with the `gguf` package, to test our reader against another's writer.

    pip install gguf numpy safetensors sentencepiece
    python3 tools/gguf_reference.py weights/tale/verifier OUT.gguf q8_0
    python3 tools/gguf_reference.py --read FILE.gguf    # what that package finds in a file of ours, tensor by tensor

Types: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1.
"""
import hashlib
import json
import struct
import sys

import gguf
import numpy as np

BLOCK = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(folder):
    """Names and f32 values of a safetensors file of bf16, f16 or f32."""
    with open(f"{folder}/model.safetensors", "rb") as f:
        data = f.read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for name, info in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        a, b = info["data_offsets"]
        raw = data[start + a : start + b]
        if info["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4"}[info["dtype"]]).astype(np.float32)
        yield name, values.reshape(info["shape"])


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in OUTSIDE:
        return OUTSIDE[stem] + ".weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{BLOCK[part]}.weight"


def paired(values, heads):
    """Rows of a head from two halves to pairs, as the Llama family's GGUF files have them."""
    return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def add_tokenizer(writer, folder):
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(f"{folder}/tokenizer.model")
    n = model.vocab_size()
    kind = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(n)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([model.id_to_piece(i) for i in range(n)])
    writer.add_token_scores([model.get_score(i) for i in range(n)])
    writer.add_token_types(kind)
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    with open(f"{folder}/tokenizer_config.json") as f:
        config = json.load(f)
    writer.add_add_bos_token(config["add_bos_token"])
    writer.add_add_space_prefix(config.get("add_prefix_space", True))
    writer.add_chat_template(config["chat_template"])


def write(folder, path, kind):
    with open(f"{folder}/config.json") as f:
        c = json.load(f)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("reference")
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_vocab_size(c["vocab_size"])
    add_tokenizer(writer, folder)
    to = gguf.GGMLQuantizationType[kind.upper()]
    for name, values in tensors(folder):
        if name.endswith("q_proj.weight"):
            values = paired(values, c["num_attention_heads"])
        if name.endswith("k_proj.weight"):
            values = paired(values, c["num_key_value_heads"])
        own = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else to
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path):
    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        value = field.contents()
        print("metadata", field.name, value if not isinstance(value, list) else f"array of {len(value)}")
    for t in reader.tensors:
        values = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        digest = hashlib.sha256(values.tobytes()).hexdigest()[:16]
        print("tensor", t.name, t.tensor_type.name, list(map(int, reversed(t.shape))), digest)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--read":
        read(sys.argv[2])
    elif len(sys.argv) == 4:
        write(*sys.argv[1:])
    else:
        sys.exit(__doc__)
