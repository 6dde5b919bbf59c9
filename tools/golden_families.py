#!/usr/bin/env python3
"""Record what the Hugging Face implementation computes for a tiny model of each family, for tests/test_families.c.

usage: golden_families.py [OUT]     from the repository root; OUT is tests/golden/families. Needs torch, transformers.

As in golden.py everything is float32 on the CPU, and weights come from an integer hash of their name that the test
repeats. A record holds all that the test needs: the configuration, the tensors (an element is offset + factor * h
for h from -128 to 127), the tokens (a prompt, then what the model goes on with at temperature 0), and for every
position the logarithm of the sum of all exponentials and a few logits. Prompts are chosen so that no greedy choice
is close.

File: `config` JSON; `tensor` name rows columns factor offset (no columns: a vector); `context` positions asked for;
`tokens` n prompt ids; `position` p lse, then pairs of id and logit.
"""
import json
import os
import sys

import torch
import transformers

from golden import hashed, numbers

PROMPT, GREEDY, LOGITS, MARGIN = 80, 64, 4, 2e-3
SIZES = dict(vocab_size=97, hidden_size=72, intermediate_size=200, num_hidden_layers=3, num_attention_heads=8,
             num_key_value_heads=2, head_dim=20, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1,
             eos_token_id=2, pad_token_id=0)
HALF = SIZES["head_dim"] // 2
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
LONG = dict(type="longrope", short_factor=[1 + i / 8 for i in range(HALF)], long_factor=[1 + i for i in range(HALF)])
PHI3 = dict(model_type="phi3", hidden_size=160, tie_word_embeddings=False, rope_scaling=LONG, sliding_window=100)
GEMMA = dict(tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=36)
FAMILIES = {
    "llama3": dict(model_type="llama", rope_theta=500000.0, rope_scaling=LLAMA3, tie_word_embeddings=True),
    "llama-biases": dict(model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                         rope_scaling=dict(type="linear", factor=4.0)),
    "mistral": dict(model_type="mistral", sliding_window=24, tie_word_embeddings=False),
    "qwen2": dict(model_type="qwen2", rope_theta=1e6, rope_scaling=YARN, tie_word_embeddings=True),
    "qwen2-window": dict(model_type="qwen2", use_sliding_window=True, sliding_window=24, max_window_layers=1,
                         tie_word_embeddings=False),
    "qwen3": dict(model_type="qwen3", rope_theta=1e6, tie_word_embeddings=True),
    "gemma2": dict(model_type="gemma2", sliding_window=24, attn_logit_softcapping=3.0, final_logit_softcapping=5.0,
                   **GEMMA),
    "gemma3": dict(model_type="gemma3_text", sliding_window=24, rope_theta=1e6, rope_local_base_freq=10000.0,
                   layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                   rope_scaling=dict(rope_type="linear", factor=8.0), **GEMMA),
    "phi3-short": dict(PHI3, max_position_embeddings=512, original_max_position_embeddings=256),
    "phi3-long": dict(PHI3, max_position_embeddings=256, original_max_position_embeddings=32),
}


def scale(name, shape, plus_one):
    """Factor and offset: norms multiply by 0.5 to 1.5, biases add up to 0.25, the embedding is up to 1."""
    if "norm" in name:
        return 1 / 256, 0 if plus_one else 1
    return (1 / 128 if "embed" in name else 1 / 512), 0


def make(config):
    """The model with its weights, and its tensors as a record lists them."""
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config),
                                                          attn_implementation="eager")
    tensors = []
    with torch.no_grad():
        for name, p in model.named_parameters():
            factor, offset = scale(name, p.shape, config["model_type"].startswith("gemma"))
            h = torch.from_numpy(hashed(name, p.numel())).float()
            p.copy_((offset + factor * h).reshape(p.shape))
            tensors.append((name, p.shape[0], p.shape[1] if p.dim() == 2 else 0, factor, offset))
    return model.float().eval(), tensors


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def go_on(model, ids):
    """GREEDY more tokens, or None when a choice is close."""
    for _ in range(GREEDY):
        best, second = logits_of(model, ids)[-1].topk(2).values.tolist()
        if best - second < MARGIN * abs(best):
            return None
        ids = ids + [int(logits_of(model, ids)[-1].argmax())]
    return ids


def tokens_of(model, name):
    for seed in range(100):
        prompt = (hashed(f"{name} {seed}", PROMPT) % SIZES["vocab_size"]).tolist()
        if (ids := go_on(model, prompt)):
            return ids
    raise SystemExit(f"{name}: every prompt leads to a close choice")


def record(name, config, file):
    model, tensors = make(config)
    ids = tokens_of(model, name)
    logits = logits_of(model, ids)
    assert logits.dtype == torch.float32
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    print(f"# tools/golden_families.py, {versions}, float32 on the CPU, eager attention", file=file)
    print("config", json.dumps(config), file=file)
    for t in tensors:
        print("tensor", *t, file=file)
    print("context", len(ids), file=file)
    print("tokens", len(ids), PROMPT, numbers(ids), file=file)
    for p in range(len(ids)):
        some = [int(logits[p].argmax())] + [(p * 31 + i * 17) % SIZES["vocab_size"] for i in range(LOGITS - 1)]
        pairs = [x for i in some for x in (i, logits[p][i].item())]
        print("position", p, numbers([logits[p].double().logsumexp(0).item()] + pairs), file=file)


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/families"
    os.makedirs(out, exist_ok=True)
    for name, fields in FAMILIES.items():
        with open(f"{out}/{name}.txt", "w") as file:
            record(name, {**SIZES, **fields}, file)
        print(name)


if __name__ == "__main__":
    main()
