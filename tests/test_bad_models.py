#!/usr/bin/env python3
"""Broken model folders through the program: exit code 3, one line on stderr that begins "outrider: error: " and
names what is wrong, nothing on stdout, within a second and within 64 MB and twice the folder's size.

Each case spoils one thing: those here of the shipped draft model, the hundreds of bad_files.py of a tiny one.
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bad_files
import bad_gguf
import tiny_gguf
import tiny_model

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
GOOD = "weights/tale/draft"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LIMIT_S, LIMIT_BYTES = 1.0, 64 << 20
with open(OUTRIDER, "rb") as program:
    SANITIZED = b"__asan_init" in program.read()  # whose shadow memory is no measure


def read(name):
    with open(f"{GOOD}/{name}", "rb") as f:
        return f.read()


def write(folder, name, data):
    path = f"{folder}/{name}"
    if os.path.lexists(path):
        os.remove(path)
    with open(path, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)


def spoil_json(name, **fields):
    """Sets fields of a JSON file; None removes one."""
    def spoil(folder):
        document = json.loads(read(name))
        for key, value in fields.items():
            if value is None:
                del document[key]
            else:
                document[key] = value
        write(folder, name, json.dumps(document))
    return spoil


def replace(name, data):
    return lambda folder: write(folder, name, data)


def cut(name, keep):
    return lambda folder: write(folder, name, read(name)[:keep])


def remove(name):
    return lambda folder: os.remove(f"{folder}/{name}")


def odd(name, make):
    def spoil(folder):
        os.remove(f"{folder}/{name}")
        make(f"{folder}/{name}")
    return spoil


def dangle(path):
    os.symlink("gone", path)


def spoil_header(change):
    """Rewrites the header of model.safetensors; the data stays as it is."""
    def spoil(folder):
        file = read(WEIGHTS)
        length = struct.unpack("<Q", file[:8])[0]
        header = json.loads(file[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        write(folder, WEIGHTS, struct.pack("<Q", len(text)) + text + file[8 + length :])
    return spoil


def rename_tensor(old, new):
    def change(header):
        header[new] = header.pop(old)
    return spoil_header(change)


def reshape(name, shape):
    def change(header):
        header[name]["shape"] = shape
    return spoil_header(change)


def add_empty(name):
    def change(header):
        header[name] = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    return spoil_header(change)


def shift(name):
    def change(header):
        header[name]["data_offsets"] = [offset + 2 for offset in header[name]["data_offsets"]]
    return spoil_header(change)


def index(shard):
    def spoil(folder):
        os.rename(f"{folder}/{WEIGHTS}", f"{folder}/a.safetensors")
        write(folder, INDEX, json.dumps({"weight_map": {"model.norm.weight": shard}}))
    return spoil


NORM, EMBED = "model.norm.weight", "model.embed_tokens.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
CASES = [  # name, what to do to the folder, what the line must name
    ("no config.json", remove("config.json"), "config.json"),
    ("config.json is empty", replace("config.json", ""), "config.json"),
    ("config.json is cut", cut("config.json", 100), "config.json"),
    ("config.json is a FIFO", odd("config.json", os.mkfifo), "config.json"),
    ("config.json is a folder", odd("config.json", os.mkdir), "config.json"),
    ("another architecture", spoil_json("config.json", model_type="mamba"), "model_type"),
    ("no hidden_size", spoil_json("config.json", hidden_size=None), "hidden_size"),
    ("hidden_size 2^31", spoil_json("config.json", hidden_size=2**31), "hidden_size"),
    ("zero heads", spoil_json("config.json", num_attention_heads=0), "num_attention_heads"),
    ("NaN epsilon", spoil_json("config.json", rms_norm_eps=float("nan")), "config.json"),
    ("scaled RoPE", spoil_json("config.json", rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_scaling"),
    ("more layers than tensors", spoil_json("config.json", num_hidden_layers=5), "model.layers.4."),
    ("fewer layers than tensors", spoil_json("config.json", num_hidden_layers=3), "model.layers.3."),
    ("a bias that nothing adds", add_empty(Q.replace("weight", "bias")), "q_proj.bias"),
    ("vocabulary unlike the tensors", spoil_json("config.json", vocab_size=8200), EMBED),
    ("head_dim unlike the tensors", spoil_json("config.json", head_dim=32), Q),
    ("no head of its own", spoil_json("config.json", tie_word_embeddings=False), "lm_head.weight"),
    ("top_p over 1", spoil_json("generation_config.json", top_p=1.5), "top_p"),
    ("top_p of 0", spoil_json("generation_config.json", top_p=0), "top_p"),
    ("a link to nothing", odd("generation_config.json", dangle), "generation_config.json"),
    ("another", odd("tokenizer_config.json", dangle), "tokenizer_config.json"),
    ("a link to no weights", odd(WEIGHTS, dangle), WEIGHTS + ":"),
    ("no weights", remove(WEIGHTS), WEIGHTS),
    ("weights are empty", replace(WEIGHTS, ""), WEIGHTS),
    ("weights are cut in the header", cut(WEIGHTS, 300), WEIGHTS),
    ("weights are cut in the data", cut(WEIGHTS, 3_000_000), WEIGHTS),
    ("weights are a FIFO", odd(WEIGHTS, os.mkfifo), WEIGHTS),
    ("weights are text", replace(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n" * 3), WEIGHTS),
    ("weights without tensors", replace(WEIGHTS, b"\x02" + b"\0" * 7 + b"{}"), WEIGHTS),
    ("a tensor is missing", rename_tensor(NORM, "model.norm.wait"), NORM),
    ("a tensor of another shape", reshape(Q, [64, 256]), Q),
    ("a shape beyond its bytes", reshape(NORM, [129]), NORM),
    ("overlapping tensors", shift(NORM), "data_offsets"),
    ("a shard outside", index("../a.safetensors"), "weight_map"),
    ("a shard that is missing", index("b.safetensors"), "b.safetensors"),
    ("an index that lists one tensor", index("a.safetensors"), "weight_map"),
    ("no tokenizer.model", remove("tokenizer.model"), "tokenizer.model"),
    ("tokenizer.model is empty", replace("tokenizer.model", ""), "tokenizer.model"),
    ("tokenizer.model is cut", cut("tokenizer.model", 70_000), "tokenizer.model"),
    ("tokenizer_config.json of a million objects",
     replace("tokenizer_config.json", '{"a":[{}' + ",{}" * 1_100_000 + "]}"), "values"),
    ("tokenizer_config.json is an array", replace("tokenizer_config.json", "[]"), "tokenizer_config.json"),
]


def folder_bytes(folder):
    if os.path.isfile(folder):
        return os.path.getsize(folder)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sum(os.lstat(f"{folder}/{name}").st_size for name in names)


RUN, INSPECT = ["run", "-p", "x", "-n", "1"], ["inspect"]


def run(folder, command=RUN):
    """Exit code, stdout, stderr, seconds and greatest memory of a run; None when it hangs."""
    command = [OUTRIDER, *command, "-m", folder]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if time.monotonic() - start > 20:
                process.kill()
                process.wait()
                return None
            time.sleep(0.001)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        seconds = usage.ru_utime + usage.ru_stime  # of the processor: neighbours do not count
        return process.returncode, out.read(), err.read().decode(errors="replace"), seconds, usage.ru_maxrss << 10


def complaint(folder, names, command=RUN):
    """What is wrong with the program's answer to a broken folder; None when it is right."""
    ended = run(folder, command)
    if not ended:
        return "it hangs"
    code, out, err, seconds, memory = ended
    if code != 3:
        return f"exit code {code}: {err.strip()}"
    if out:
        return f"stdout holds {out[:80]!r}"
    if not err.startswith("outrider: error: ") or err.count("\n") != 1 or not err.endswith("\n"):
        return f"stderr is not one line of an error: {err!r}"
    if names not in err:
        return f"{names} is not named: {err.strip()}"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in err[:-1]):
        return f"control characters: {err!r}"
    if seconds > LIMIT_S:
        return f"it took {seconds:.1f} s"
    if memory > LIMIT_BYTES + 2 * folder_bytes(folder) and not SANITIZED:
        return f"it took {memory >> 20} MB"
    return None


def convert_complaint(model, names):
    """The same of a conversion, which leaves nothing behind."""
    with tempfile.TemporaryDirectory() as beside:
        output = f"{beside}/folder" if model.endswith(".gguf") else f"{beside}/x.gguf"
        if wrong := complaint(model, names, ["convert", "-o", output]):
            return f"convert: {wrong}"
        return f"convert leaves {os.listdir(beside)}" if os.listdir(beside) else None


def unspoilt_complaint():
    """The model that all cases start from must run: otherwise they would prove nothing."""
    done = subprocess.run([OUTRIDER, "run", "-m", GOOD, "-p", "x", "-n", "1"], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=60)
    return None if done.returncode == 0 and done.stdout else f"exit code {done.returncode}: {done.stderr!r}"


def report(name, wrong):
    print(f"FAIL {name}: {wrong}" if wrong else f"ok {name}", flush=True)
    return not wrong


def main():
    fine = report("the model as it is", unspoilt_complaint())
    fine &= report("no such folder", complaint("/nonexistent/model", "/nonexistent/model"))
    for name, spoil, names in CASES:
        with tempfile.TemporaryDirectory() as folder:
            for file in os.listdir(GOOD):
                shutil.copy(f"{GOOD}/{file}", folder)
            spoil(folder)
            fine &= report(name, complaint(folder, names))
    with tempfile.TemporaryDirectory() as folder:
        tiny_model.write(folder)
        code, _, err, _, _ = run(folder)
        fine &= report("the tiny model as it is", None if code == 0 else err)
    for name, spoil, names in bad_files.cases():
        with tempfile.TemporaryDirectory() as folder:
            tiny_model.write(folder)
            spoil(folder)
            fine &= report(name, complaint(folder, names) or convert_complaint(folder, names))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.gguf"
        bad_files.put("model.gguf", tiny_gguf.tiny_file())(folder)
        code, _, err, _, _ = run(path, INSPECT)
        fine &= report("the tiny GGUF as it is", None if code == 0 else err)
        for name, data, names in bad_gguf.cases():
            bad_files.put("model.gguf", data)(folder)
            fine &= report("GGUF: " + name, complaint(path, names, INSPECT) or convert_complaint(path, names))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
