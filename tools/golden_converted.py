#!/usr/bin/env python3
"""Write tests/golden/converted.txt: sums of files of `outrider convert` that the `gguf` package has read.

usage: golden_converted.py [OUT]    from the repository root, after make; OUT is tests/golden/converted.txt.
Needs gguf and numpy.

The shipped models are converted to every type. Each file must load in that package
with the sizes of config.json and every tensor of the source under its name and of its shape. Floats and q8_0 must be
what the package would have written; of other types the error is at most that of the package's own quantisation, or,
where it has none, a tenth. A line a file: model, type, tensors of each type, SHA-256. tests/test_convert.py converts again and compares the sums:
what that package has not read fails there, without the package.
"""
import collections
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np

from gguf_reference import gguf_name, paired, tensors

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
FILES = [("draft", t) for t in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")]
FILES += [("verifier", t) for t in ("q4_k", "q5_k", "q6_k")]  # the draft has no rows of whole blocks of 256
EXACT = ["F32", "F16", "BF16", "Q8_0"]
WORST = 0.1  # of the root mean square, for types that the package only reads


def source_of(folder, config):
    for name, values in tensors(folder):
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = paired(values, heads)
        yield gguf_name(name), values


def check_metadata(reader, config):
    for key, name in (("block_count", "num_hidden_layers"), ("embedding_length", "hidden_size"),
                      ("feed_forward_length", "intermediate_size"), ("attention.head_count", "num_attention_heads"),
                      ("attention.head_count_kv", "num_key_value_heads"), ("rope.freq_base", "rope_theta")):
        assert reader.fields[f"llama.{key}"].contents() == config[name], key
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == config["vocab_size"]


def check_tensor(t, values):
    assert list(reversed(t.shape)) == list(values.shape), t.name
    read = gguf.quants.dequantize(t.data, t.tensor_type)
    most = WORST
    if t.tensor_type.name[-2:] != "_K":
        theirs = gguf.quants.dequantize(gguf.quants.quantize(values, t.tensor_type), t.tensor_type)
        most = error_of(theirs, values)
    if t.tensor_type.name in EXACT:
        assert np.array_equal(read, theirs), f"{t.name} as {t.tensor_type.name}"
    assert error_of(read, values) <= most, f"{t.name} as {t.tensor_type.name}: error {error_of(read, values)} > {most}"


def error_of(read, values):
    return np.sqrt(np.mean((read - values) ** 2) / np.mean(values ** 2))


def record(model, kind, folder):
    source, path = f"weights/tale/{model}", f"{folder}/{model}-{kind}.gguf"
    subprocess.run([OUTRIDER, "convert", "-m", source, "-o", path, "--type", kind], check=True)
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    reader = gguf.GGUFReader(path)
    check_metadata(reader, config)
    ours, theirs = {t.name: t for t in reader.tensors}, dict(source_of(source, config))
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    for name, values in theirs.items():
        check_tensor(ours[name], values)
    types = collections.Counter(t.tensor_type.name for t in reader.tensors)
    with open(path, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    return f"{model} {kind} {','.join(f'{n}x{c}' for n, c in sorted(types.items()))} {digest}\n"


def main(out="tests/golden/converted.txt"):
    with tempfile.TemporaryDirectory() as folder:
        lines = [record(model, kind, folder) for model, kind in FILES]
    with open(out, "w") as f:
        f.writelines(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
