#!/usr/bin/env python3
"""Make a draft for a verifier: a small model that learns the verifier's own distribution over each next token.

usage: distill.py VERIFIER OUT TEXT ... [--layers LAYERS | --set FIELD=N ...] [--steps N] [--batch N] [--rate R]

The share of proposals that a verifier accepts is the overlap of the two distributions where it writes. So TEXT is
best what it writes itself, the output of `outrider run --batch` at temperature 1 (its "tokens" are taken as they
are); a corpus as plain text serves too. The draft begins as a copy of some of the verifier's layers (--layers, as
prune.py takes them; the default, a quarter of them), or fresh: the verifier's config.json with the fields of --set.
On a CPU, in minutes (tools/train/README.md says what it gave):

    for i in $(seq 600); do echo "{\\"prompt\\": \\"\\", \\"seed\\": $i}"; done >build/starts.jsonl
    build/outrider run --batch build/starts.jsonl -n 256 --ignore-eos --spec-type none \\
        --temp 1 --top-k 0 --top-p 1 --min-p 0 >build/own.jsonl
    tools/distill.py weights/tale/verifier build/draft build/own.jsonl --layers 0,7 --steps 240
    build/outrider bench -m weights/tale/verifier -md build/draft --spec-type draft --prompts tests/data/prompts.jsonl

Prints the overlap on text that is kept back, before and after. For families that both outrider and
transformers know. Needs torch, transformers, safetensors; for plain text with a tokenizer.model, sentencepiece. A
GPU is used if there is one. tools/train is the same with a corpus, from nothing, as the shipped pair was made.
"""
import argparse
import json
import os
import random
import sys
import time

import torch
import torch.nn.functional as F
import transformers

import prune

LENGTH = 256  # tokens of a sequence
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def arguments():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("verifier")
    p.add_argument("out")
    p.add_argument("text", nargs="+")
    p.add_argument("--layers")
    p.add_argument("--set", action="append", default=[], metavar="FIELD=N")
    p.add_argument("--steps", type=int, default=500)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--rate", type=float)
    return p.parse_args()


# ---- the text ----

def encode(folder, text):
    model = f"{folder}/tokenizer.model"
    if os.path.exists(model):
        import sentencepiece
        return sentencepiece.SentencePieceProcessor(model_file=model).encode(text)
    return transformers.AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)


def sequences(folder, files, first):
    """[n][LENGTH + 1] tokens, each beginning with the token that begins a text, where the model has one."""
    head, out = [] if first is None else [first], []
    size = LENGTH + 1 - len(head)
    for name in files:
        with open(name, encoding="utf8") as file:
            texts = ([json.loads(line)["tokens"] for line in file] if name.endswith(".jsonl")
                     else [encode(folder, file.read())])
        for ids in texts:
            out += [head + ids[at : at + size] for at in range(0, len(ids) - size + 2, size)]
    out = [s for s in out if len(s) >= LENGTH]
    if len(out) < 10:
        sys.exit(f"distill.py: {len(out)} sequences of {LENGTH} tokens in the text; it takes 10 at least")
    random.shuffle(out)
    return torch.tensor([s[:LENGTH] for s in out])


# ---- the draft ----

def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(DEVICE)


def make_draft(a, config):
    """The draft before it has learnt anything, and its config.json."""
    if a.set:
        config = dict(config, **{field: int(n) for field, n in (s.split("=") for s in a.set)})
        fields = {k: v for k, v in config.items() if k not in ("architectures", "torch_dtype", "dtype")}
        fresh = transformers.AutoConfig.for_model(**fields)
        return transformers.AutoModelForCausalLM.from_config(fresh, dtype=torch.float32).to(DEVICE), config
    n = config["num_hidden_layers"]
    keep = prune.chosen(a.layers or str(-(-n // 4)), n)
    config = prune.cut_config(config, keep)
    prune.write_model(a.verifier, a.out, config, prune.cut_tensors(a.verifier, keep))
    return load(a.out), config


@torch.no_grad()
def overlap(verifier, draft, held):
    """The share of single proposals that the verifier accepts at temperature 1: the sum of min(p, q)."""
    shares = [torch.minimum(verifier(ids).logits.softmax(-1), draft(ids).logits.softmax(-1)).sum(-1).mean().item()
              for ids in held.to(DEVICE).split(8)]
    return sum(shares) / len(shares)


def loss_of(verifier, draft, ids):
    with torch.no_grad():
        target = F.log_softmax(verifier(ids).logits.flatten(0, 1).float(), -1)
    own = F.log_softmax(draft(ids).logits.flatten(0, 1).float(), -1)
    return F.kl_div(own, target, log_target=True, reduction="batchmean")


def train(a, verifier, draft, ids):
    """A warm-up, then half of the steps at the full rate and a linear way down."""
    peak, begun = a.rate or (3e-3 if a.set else 1e-3), time.time()
    optimizer = torch.optim.AdamW(draft.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(1, a.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1, step / 20) * min(1, 2 * (1 - step / a.steps) + 0.01)
        loss = loss_of(verifier, draft, ids[torch.randint(len(ids), (a.batch,))].to(DEVICE))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == a.steps:
            left = (time.time() - begun) / step * (a.steps - step)
            print(f"step {step} of {a.steps}, loss {loss.item():.3f}, {left:.0f} s left", flush=True)


def main():
    a = arguments()
    random.seed(0)
    torch.manual_seed(0)
    config = prune.read_config(a.verifier)
    ids = sequences(a.verifier, a.text, config.get("bos_token_id"))
    kept = min(len(ids) // 10, 64)
    held, ids = ids[:kept], ids[kept:]
    verifier = load(a.verifier).eval().requires_grad_(False)
    draft, config = make_draft(a, config)
    before = overlap(verifier, draft.eval(), held)
    print(f"{len(ids)} sequences of {LENGTH} tokens, overlap {before:.3f}", flush=True)
    train(a, verifier, draft.train(), ids)
    after = overlap(verifier, draft.eval(), held)
    names = dict(draft.named_parameters())  # tied weights once
    prune.write_model(a.verifier, a.out, config, {n: p.detach().to(torch.bfloat16).cpu() for n, p in names.items()})
    print(f"{a.out}: {sum(p.numel() for p in names.values()) / 1e6:.1f}M parameters, {a.steps} steps of {a.batch} "
          f"sequences, overlap {before:.3f} before and {after:.3f} after")


if __name__ == "__main__":
    main()
