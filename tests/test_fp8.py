"""Checkpoints of 8-bit floats (F8_E4M3 with weight_scale): each form of scales gives the model that their products,
computed here, are in f32; what does not fit together is refused."""
import array
import bisect
import functools
import json
import os
import shutil
import struct
import subprocess
import tempfile

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
DRAFT = "weights/tale/draft"
TEXT = open("tests/data/held-out.txt").read()[:1500]
def outrider(*args):
    return subprocess.run([OUTRIDER, *args], input=TEXT, capture_output=True, text=True, timeout=300)


def value(code):  # of a positive e4m3
    exponent, mantissa = code >> 3, code & 7
    return (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0 ** -9


VALUES = [value(c) for c in range(127)]


def code_of(x):
    at = bisect.bisect(VALUES, abs(x))
    nearest = min(range(max(at - 1, 0), min(at + 1, 127)), key=lambda c: abs(VALUES[c] - abs(x)))
    return nearest | (128 if x < 0 else 0)


def read_weights(path):
    data = open(path, "rb").read()
    size = int.from_bytes(data[:8], "little")
    for name, t in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        halves = array.array("H", data[8 + size + begin : 8 + size + end])
        yield name, t["shape"], array.array("f", struct.pack(f"<{len(halves)}I", *(h << 16 for h in halves)))


def write_folder(folder, tensors, method=None):
    """tensors: name to (dtype, shape, bytes)."""
    os.makedirs(folder)
    for name in os.listdir(DRAFT):
        if name != "model.safetensors":
            shutil.copy(f"{DRAFT}/{name}", folder)
    config = json.load(open(f"{folder}/config.json"))
    if method:
        config["quantization_config"] = {"quant_method": method}
    json.dump(config, open(f"{folder}/config.json", "w"))
    header, data = {}, b""
    for name, (dtype, shape, raw) in sorted(tensors.items(), key=lambda t: ("F32", "BF16", "F8_E4M3").index(t[1][0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{folder}/model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text + data)


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


# form: rows and columns that a scale serves, its name, its dtype, and its shape
FORMS = {"tensor": (lambda n, k: (n, k), "weight_scale", "F32", lambda n, k: []),
         "row": (lambda n, k: (1, k), "weight_scale", "BF16", lambda n, k: [n, 1]),
         "block": (lambda n, k: (128, 128), "weight_scale_inv", "F32", lambda n, k: [-(-n // 128), -(-k // 128)])}


def quantise(form, n, k, x):
    """Codes, scales and the values that they stand for."""
    rows, cols = FORMS[form][0](n, k)
    codes, wide, scales = bytearray(n * k), array.array("f", bytes(4 * n * k)), []
    for i in range(0, n, rows):
        for j in range(0, k, cols):
            places = [r * k + c for r in range(i, min(i + rows, n)) for c in range(j, min(j + cols, k))]
            scale = max(abs(x[p]) for p in places) / 448
            bits = struct.unpack("<I", struct.pack("<f", scale))[0]
            scale = struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000 if FORMS[form][2] == "BF16" else bits))[0]
            scales.append(scale)
            for p in places:
                codes[p] = code_of(x[p] / scale)
                wide[p] = f32(VALUES[codes[p] & 127] * scale) * (-1 if codes[p] & 128 else 1)
    raw = array.array("f", scales).tobytes()
    if FORMS[form][2] == "BF16":
        raw = b"".join(raw[i + 2 : i + 4] for i in range(0, len(raw), 4))
    return bytes(codes), raw, wide


@functools.cache
def both(form):
    """The checkpoint and its twin in f32: the layers' matrices in e4m3, the rest as it is."""
    small, twin = {}, {}
    for name, shape, x in read_weights(f"{DRAFT}/model.safetensors"):
        if len(shape) == 2 and "layers" in name:
            codes, scales, wide = quantise(form, *shape, x)
            small[name] = ("F8_E4M3", shape, codes)
            small[name.replace("weight", FORMS[form][1])] = (FORMS[form][2], FORMS[form][3](*shape), scales)
            small[name.replace("weight", "input_scale")] = ("F32", [], struct.pack("<f", 1))
            twin[name] = ("F32", shape, wide.tobytes())
        else:
            small[name] = twin[name] = ("F32", shape, x.tobytes())
    return small, twin


def test_forms(folder):
    for form in FORMS:
        small, twin = both(form)
        write_folder(f"{folder}/{form}", small, "fp8")
        write_folder(f"{folder}/{form}-f32", twin)
        done = outrider("eval", "-f", "-", "--json", "--ab", f"{folder}/{form}-f32", f"{folder}/{form}")
        rows = json.loads(done.stdout) if done.returncode == 0 else done.stderr
        check(f"scales by {form}", done.returncode == 0 and rows[1]["dtype"] == "f8" and rows[1]["kl_99"] < 1e-8
              and rows[1]["top1"] == 1 and rows[1]["memory_bytes"] < rows[0]["memory_bytes"], rows)
    said = outrider("inspect", "-m", f"{folder}/block").stdout
    check("inspect says how they are held", "e4m3 weights, held as f8 (as bf16 on a card)" in said and "tensors of e4m3" in said, said)


def test_conversion(folder):
    done = outrider("convert", "-m", f"{folder}/row", "-o", f"{folder}/row.gguf", "--type", "f32")
    check("converted", done.returncode == 0, done)
    done = outrider("eval", "-f", "-", "--json", "--ab", f"{folder}/row-f32", f"{folder}/row.gguf")
    check("to the same model", done.returncode == 0 and json.loads(done.stdout)[1]["kl_99"] == 0, done)


def test_quantised():
    none, fp8 = json.loads(outrider("eval", "-m", "weights/tale/verifier", "-f", "-", "--json", "--quant", "none,fp8").stdout)
    check("--quant fp8 halves the layers and stays near", fp8["dtype"] == "f8" and 0 < fp8["kl_mean"] < 0.01 and fp8["top1"] > 0.9
          and fp8["streamed_bytes"] < 0.53 * none["streamed_bytes"], (none, fp8))


def test_refusals(folder):
    small, _ = both("tensor")
    name = "model.layers.1.mlp.down_proj.weight"
    n, k = small[name][1]

    def refused(what, says, method="fp8", **changes):
        changed = {**small, **{k.replace("__", "."): v for k, v in changes.items()}}
        path = tempfile.mkdtemp(dir=folder) + "/m"
        write_folder(path, {k: v for k, v in changed.items() if v}, method)
        done = outrider("run", "-m", path, "-p", "x", "-n", "1")
        check(f"refused: {what}", done.returncode == 3 and says in done.stderr and len(done.stderr.splitlines()) == 1, done)

    scale = name + "_scale"
    refused("no scale", "has no weight_scale", **{scale: None})
    for shape in ([2], [1, 2], [n // 2], [n, 2], [n, k], [n // 128 + 1, k // 128], [0], [1, 1, 1]):
        size = 4
        for s in shape:
            size *= s
        if shape != [1, 1, 1]:
            refused(f"scales of {shape}", "down_proj.weight_scale", **{scale: ("F32", shape, bytes(size))})
    refused("scales of three dimensions", "down_proj.weight_scale", **{scale: ("F32", [1, 1, 1], bytes(4))})
    refused("scales under both names", "both a weight_scale and", **{scale + "_inv": ("F32", [], bytes(4))})
    refused("scales in e4m3", "down_proj.weight_scale", **{scale: ("F8_E4M3", [1, 1], bytes(1))})
    refused("a norm in e4m3", "model.norm.weight", **{"model.norm.weight": ("F8_E4M3", [128], bytes(128))})
    refused("another method", "gptq", method="gptq")
    refused("scales of what is none", "o_proj.weight_scale",
            **{"model.layers.0.self_attn.o_proj.weight": ("F32", small["model.layers.0.self_attn.o_proj.weight"][1],
                                                          bytes(4 * len(small["model.layers.0.self_attn.o_proj.weight"][2])))})


with tempfile.TemporaryDirectory() as folder:
    test_forms(folder)
    test_conversion(folder)
    test_quantised()
    test_refusals(folder)
finish()
