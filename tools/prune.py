#!/usr/bin/env python3
"""Drop layers of a model: structured pruning, to a model folder of its own.

usage: prune.py MODEL OUT LAYERS     MODEL and OUT are folders in Hugging Face's layout; LAYERS is how many to keep,
                                     spread evenly with the first and the last among them, or which: 0,1,2,7

For example, half of the shipped verifier as a draft for it:

    tools/prune.py weights/tale/verifier build/half 4
    build/outrider bench -m weights/tale/verifier -md build/half

What is left writes worse than before and needs training to heal. Tokenizer and chat
template are copied, so the result can draft for the model that it was cut from. Needs torch and safetensors.
"""
import json
import os
import re
import shutil
import sys

from safetensors import safe_open
from safetensors.torch import save_file

BESIDE = ("generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt")


def read_config(folder):
    with open(f"{folder}/config.json") as f:
        return json.load(f)


def chosen(text, n):
    """The layers to keep, of n."""
    if "," in text:
        keep = [int(part) for part in text.split(",")]
    else:
        count = int(text)
        if not 1 <= count <= n:
            sys.exit(f"prune.py: cannot keep {count} of {n} layers")
        keep = [round(i * (n - 1) / max(count - 1, 1)) for i in range(count)]
    if keep != sorted(set(keep)) or not all(0 <= i < n for i in keep):
        sys.exit(f"prune.py: layers are numbers from 0 to {n - 1} in ascending order")
    return keep


def layer_types(config):
    """Which layers have a sliding window, where layers differ; dropping some must not change the others."""
    if "layer_types" in config:
        return config["layer_types"]
    n, kind = config["num_hidden_layers"], config["model_type"]
    if kind in ("qwen2", "qwen3") and config.get("use_sliding_window"):
        local = [i >= config.get("max_window_layers", 28) for i in range(n)]
    elif kind in ("gemma2", "gemma3_text"):
        cycle = config.get("sliding_window_pattern", 2 if kind == "gemma2" else 6)
        local = [(i + 1) % cycle != 0 for i in range(n)]
    else:
        return None
    return ["sliding_attention" if l else "full_attention" for l in local]


def cut_config(config, keep):
    types = layer_types(config)
    config = dict(config, num_hidden_layers=len(keep))
    if types:
        config["layer_types"] = [types[i] for i in keep]
    return config


def shards(folder):
    index = f"{folder}/model.safetensors.index.json"
    if not os.path.exists(index):
        return [f"{folder}/model.safetensors"]
    with open(index) as f:
        return sorted({f"{folder}/{name}" for name in json.load(f)["weight_map"].values()})


def cut_tensors(folder, keep):
    """The tensors that stay, under their new names."""
    new, out = {old: i for i, old in enumerate(keep)}, {}
    for shard in shards(folder):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                layer = re.match(r"model\.layers\.(\d+)\.(.*)", name)
                if not layer:
                    out[name] = file.get_tensor(name)
                elif int(layer[1]) in new:
                    out[f"model.layers.{new[int(layer[1])]}.{layer[2]}"] = file.get_tensor(name)
    return out


def write_model(source, out, config, tensors):
    """A folder with these weights and everything else of `source`."""
    os.makedirs(out, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, f"{out}/model.safetensors",
              metadata={"format": "pt"})
    with open(f"{out}/config.json", "w") as f:
        json.dump(config, f, indent=2)
    for name in BESIDE:
        if os.path.exists(f"{source}/{name}"):
            shutil.copy(f"{source}/{name}", f"{out}/{name}")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, out, text = sys.argv[1:]
    config = read_config(source)
    keep = chosen(text, config["num_hidden_layers"])
    tensors = cut_tensors(source, keep)
    write_model(source, out, cut_config(config, keep), tensors)
    print(f"{out}: layers {', '.join(map(str, keep))} of {config['num_hidden_layers']}, "
          f"{sum(t.numel() for t in tensors.values()) / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
