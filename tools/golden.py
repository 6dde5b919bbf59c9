#!/usr/bin/env python3
"""Record what the Hugging Face implementation computes, as text, for tests/test_golden.c.

usage: golden.py [OUT]     from the repository root; OUT is tests/golden. Needs torch, transformers, sentencepiece.

Everything runs in float32 on the CPU, whatever the files hold, so that the numbers are those of the model and not
of a rounding. For the shipped pair: logits at chosen positions of a few prompts and of a long held-out excerpt.
For a tiny model of awkward sizes: logits at every position. The tiny model's weights come from an integer hash
that the test repeats, so that no binary need be kept; they are multiples of 1/128 of few bits, hence exact in
f32, f16 and bf16 alike.

File: lines of a word and numbers. `indices` names the vocabulary entries whose logits are recorded; `prompt` n
ids begins a prompt, and each `position` p in it is followed by `lse` (log of the sum of all exponentials), `top`
(the five greatest, id and logit in turn) and `logits` (of the indices).
"""
import sys

import numpy as np
import sentencepiece
import torch
import transformers

PAIR = "weights/tale"
PROMPTS = ("Once upon a time there was a young prince who lived in a castle by the sea, and",
           "\"Is it far to the village?\" asked the",
           "1234, £5 & naïve — 東京")
LONG_TOKENS = 1040
LONG_POSITIONS = (0, 15, 16, 63, 64, 65, 100, 127, 128, 129, 255, 256, 300, 511, 512, 513, 700, 1000, 1023, 1024, 1039)
INDICES = [(i * 257 + 3) % 8192 for i in range(32)]
TINY = dict(vocab_size=97, hidden_size=72, intermediate_size=200, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=2, head_dim=20, max_position_embeddings=256, rope_theta=10000.0, rms_norm_eps=1e-5,
            tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
TINY_TOKENS = 40


def mix(h):
    """A 32-bit finaliser (Ettinger's lowbias32) on uint32 arrays, wrapping."""
    h = h ^ h >> np.uint32(16)
    h = h * np.uint32(0x7FEB352D)
    h = h ^ h >> np.uint32(15)
    h = h * np.uint32(0x846CA68B)
    return h ^ h >> np.uint32(16)


def fnv1a(text):
    h = 2166136261
    for byte in text.encode():
        h = (h ^ byte) * 16777619 % 2**32
    return h


def hashed(name, n):
    """n integers from -128 to 127 that belong to a name."""
    return (mix(np.arange(n, dtype=np.uint32) + np.uint32(fnv1a(name))) >> np.uint32(24)).astype(np.int32) - 128


def tiny_tensor(name, shape):
    """Norms from 0.5 to 1.5, the embedding up to 1, other matrices up to 0.25."""
    h = hashed(name, int(np.prod(shape))).astype(np.float32) / 128
    if len(shape) == 1:
        h = 1 + np.floor(h * 64) / 128
    elif name != "model.embed_tokens.weight":
        h = h / 4
    return torch.from_numpy(h.reshape(shape))


def tiny_model():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(attn_implementation="eager", **TINY))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tiny_tensor(name, p.shape))
    return model.eval()


def numbers(values):
    return " ".join(f"{v:.7g}" if isinstance(v, float) else str(v) for v in values)


def record(file, model, indices, prompts):
    """prompts: pairs of ids and the positions to record."""
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    print(f"# tools/golden.py, {versions}, float32 on the CPU, eager attention", file=file)
    print("indices", len(indices), numbers(indices), file=file)
    for ids, positions in prompts:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        assert logits.dtype == torch.float32
        print("prompt", len(ids), numbers(ids), file=file)
        for p in positions:
            value, top = logits[p].topk(5)
            pairs = [x for pair in zip(top.tolist(), value.tolist()) for x in pair]
            print("position", p, file=file)
            print("lse", numbers([logits[p].double().logsumexp(0).item()]), file=file)
            print("top", numbers(pairs), file=file)
            print("logits", numbers(logits[p][indices].tolist()), file=file)


def pair_prompts(folder):
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
    for text in PROMPTS:
        ids = [sp.bos_id()] + sp.encode(text)
        yield ids, (0, len(ids) // 2, len(ids) - 1)
    with open("tests/data/held-out.txt", encoding="utf8") as f:
        ids = [sp.bos_id()] + sp.encode(f.read(8 * LONG_TOKENS))
    yield ids[:LONG_TOKENS], LONG_POSITIONS


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
    for which in ("verifier", "draft"):
        folder = f"{PAIR}/{which}"
        model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
        with open(f"{out}/{which}.txt", "w") as file:
            record(file, model, INDICES, pair_prompts(folder))
    ids = (hashed("tokens", TINY_TOKENS) % TINY["vocab_size"]).tolist()
    with open(f"{out}/tiny.txt", "w") as file:
        record(file, tiny_model(), list(range(TINY["vocab_size"])), [(ids, range(TINY_TOKENS))])


if __name__ == "__main__":
    main()
