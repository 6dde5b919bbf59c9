"""The Llama architecture of the default pair in PyTorch: grouped-query attention, RoPE, SwiGLU, tied embeddings.

Used by train.py and export.py; see train.py for the order of use.
"""
import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, CTX, HEAD_DIM, EPS, THETA = 8192, 2048, 64, 1e-5, 10000.0
SHAPES = {
    "verifier": dict(hidden=384, layers=8, heads=6, kv_heads=2, ffn=1024),
    "draft": dict(hidden=128, layers=4, heads=2, kv_heads=1, ffn=384),
}
UPSTREAM_NAMES = {  # of a layer's tensors, in the Hugging Face layout
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def autocast():
    return torch.autocast(DEVICE, torch.bfloat16)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), EPS)


def rope_tables():
    frequency = 1.0 / THETA ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angle = torch.outer(torch.arange(CTX).float(), frequency)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rope(x, cos, sin):
    low, high = x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :]
    return x * cos + torch.cat([-high, low], -1) * sin


class Layer(nn.Module):
    def __init__(self, hidden, heads, kv_heads, ffn):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.q = linear(hidden, heads * HEAD_DIM)
        self.k = linear(hidden, kv_heads * HEAD_DIM)
        self.v = linear(hidden, kv_heads * HEAD_DIM)
        self.o = linear(heads * HEAD_DIM, hidden)
        self.gate, self.up, self.down = linear(hidden, ffn), linear(hidden, ffn), linear(ffn, hidden)
        self.norm1, self.norm2 = RMSNorm(hidden), RMSNorm(hidden)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def split(y, heads):
            return y.view(batch, length, heads, HEAD_DIM).transpose(1, 2)

        h = self.norm1(x)
        q = rope(split(self.q(h), self.heads), cos, sin)
        k = rope(split(self.k(h), self.kv_heads), cos, sin)
        v = split(self.v(h), self.kv_heads)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(attended.transpose(1, 2).reshape(batch, length, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, hidden, layers, **shape):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden)
        self.layers = nn.ModuleList([Layer(hidden, **shape) for _ in range(layers)])
        self.norm = RMSNorm(hidden)
        cos, sin = rope_tables()
        self.register_buffer("cos", cos, False)
        self.register_buffer("sin", sin, False)
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue
            std = 0.02 if name.startswith("embedding") else 1 / math.sqrt(p.shape[1])
            if name.endswith(("o.weight", "down.weight")):  # they add to the residual 2 * layers times
                std /= math.sqrt(2 * layers)
            nn.init.normal_(p, std=std)

    def forward(self, ids):
        x = self.embedding(ids)
        cos, sin = (t[: ids.shape[1]].to(torch.bfloat16) for t in (self.cos, self.sin))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight.to(x.dtype))


def upstream_tensors(model):
    """The weights under their upstream names."""
    state = model.state_dict()
    tensors = {"model.embed_tokens.weight": state["embedding.weight"], "model.norm.weight": state["norm.weight"]}
    for i in range(len(model.layers)):
        for name, upstream in UPSTREAM_NAMES.items():
            tensors[f"model.layers.{i}.{upstream}.weight"] = state[f"layers.{i}.{name}.weight"]
    return tensors


def load(which, folder):
    """A trained model from folder/<which>.pt, or from an exported folder/<which>/model.safetensors."""
    model = Llama(**SHAPES[which]).to(DEVICE)
    checkpoint = f"{folder}/{which}.pt"
    if os.path.exists(checkpoint):
        model.load_state_dict(torch.load(checkpoint, map_location=DEVICE))
        return model
    from safetensors.torch import load_file

    stored = load_file(f"{folder}/{which}/model.safetensors")
    with torch.no_grad():
        for name, p in upstream_tensors(model).items():
            p.copy_(stored[name].float())
    return model
