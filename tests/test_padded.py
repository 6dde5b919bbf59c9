"""A draft whose head is padded to a larger size than the verifier's, and the other way round: the pair works, and the
padded tail, whose rows here would win every argmax, is never proposed or written."""
import json
import os
import shutil
import struct
import subprocess
import tempfile

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
PAIR = {which: f"weights/tale/{which}" for which in ("verifier", "draft")}


def pad(source, target, rows):
    """Appends rows of 100.0 in bf16 and of -100.0, so that one of them has the greatest logit of all."""
    shutil.copytree(source, target)
    with open(f"{source}/model.safetensors", "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    config = json.load(open(f"{source}/config.json"))
    vocab, out, new = config["vocab_size"], b"", {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        raw = data[slice(*t["data_offsets"])]
        if t["shape"][0] == vocab:
            assert t["dtype"] == "BF16"
            raw += (b"\xc8\x42" * t["shape"][1] + b"\xc8\xc2" * t["shape"][1]) * (rows // 2)
            t["shape"][0] += rows
        new[name] = {**t, "data_offsets": [len(out), len(out) + len(raw)]}
        out += raw
    text = json.dumps(new).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{target}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + out)
    json.dump(config | {"vocab_size": vocab + rows}, open(f"{target}/config.json", "w"))


def run(verifier, draft):
    command = [OUTRIDER, "run", "-m", verifier, "-md", draft, "-p", "Once upon a time", "-n", "60", "--temp", "0",
               "--spec-draft-n-max", "4"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


expected = run(PAIR["verifier"], PAIR["draft"])
check("the pair as it is shipped", expected.returncode == 0, expected.stderr)
with tempfile.TemporaryDirectory() as folder:
    for which in PAIR:
        padded = f"{folder}/{which}"
        pad(PAIR[which], padded, 64)
        got = run(*(PAIR | {which: padded}).values())
        check(f"a padded {which} writes the same text", (got.returncode, got.stdout) == (0, expected.stdout),
              (got.returncode, got.stdout, got.stderr))  # fmt: skip
finish()
