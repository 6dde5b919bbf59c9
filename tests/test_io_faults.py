#!/usr/bin/env python3
"""Files and disks that fail under the running program: a model that shrinks while it is mapped, a disk that fills up
and a kill while a conversation is saved, memory that is limited from outside.
"""
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tiny_model

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
KILLS = 200
with open(OUTRIDER, "rb") as program:
    SANITIZED = b"__asan_init" in program.read()


def report(name, wrong):
    print(f"FAIL {name}: {wrong}" if wrong else f"ok {name}", flush=True)
    return not wrong


def chat(folder, **more):
    return subprocess.Popen([OUTRIDER, "chat", "-m", folder, "--temp", "0", "-n", "4", "--seed", "1"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def shrinking(folder):
    """The program waits for its second line while the weights are cut."""
    process = chat(folder)
    process.stdin.write(b"the\n")
    process.stdin.flush()
    if not process.stdout.readline():
        return "no answer: " + process.stderr.read().decode()
    os.truncate(f"{folder}/model.safetensors", 0)
    _, err = process.communicate(b"the\n", timeout=30)
    last = err.decode().splitlines()[-1]
    if process.returncode != 3 or not last.startswith("outrider: error: ") or "model.safetensors" not in last:
        return f"exit {process.returncode}: {last}"
    return None


def save_script(path, times):
    return "".join(f"/set temp 0.{1 + i % 2}\n/save {path}\n" for i in range(times)).encode()


def conversation(folder, bytes_):
    path = f"{folder}/start.json"
    with open(path, "w") as f:
        json.dump({"format": "outrider chat 1", "settings": {},
                   "messages": [{"role": "user", "content": "the " * (bytes_ // 4)},
                                {"role": "assistant", "content": "a"}]}, f)
    return path


def saved_versions(folder, start):
    """The two contents that the script below saves in turn."""
    versions = []
    for temp in ["0.1", "0.2"]:
        path = f"{folder}/version"
        _, err = chat(folder).communicate(f"/load {start}\n/set temp {temp}\n/save {path}\n".encode(), timeout=60)
        if not os.path.exists(path):
            raise RuntimeError(err.decode())
        with open(path, "rb") as f:
            versions.append(f.read())
        os.remove(path)
    return versions


def kills(folder):
    """Killed at random points of saving: what is there is one of the two versions, whole."""
    start, path, rng, seen = conversation(folder, 4000), f"{folder}/saved.json", random.Random(3), set()
    versions = saved_versions(folder, start)
    if versions[0] == versions[1]:
        return "the two versions are the same"
    with open(path, "wb") as f:
        f.write(versions[0])
    script = f"/load {start}\n".encode() + save_script(path, 500)
    for i in range(KILLS):
        before = os.stat(path).st_ino
        process = chat(folder)
        process.stdin.write(script)
        process.stdin.flush()
        while os.stat(path).st_ino == before and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.004))
        process.kill()
        process.communicate()
        with open(path, "rb") as f:
            data = f.read()
        if data not in versions:
            return f"kill {i} left a mixture of {len(data)} bytes"
        seen.add(data)
    return None if len(seen) == 2 else "no kill came between two saves"


def full_disk(folder):
    """A limit on file sizes stands for a full disk: the old file stays, nothing is left beside it."""
    start, path = conversation(folder, 4000), f"{folder}/full.json"
    with open(path, "w") as f:
        f.write("old")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    process = chat(folder, preexec_fn=limit)
    _, err = process.communicate(f"/load {start}\n/save {path}\n".encode(), timeout=30)
    with open(path) as f:
        if f.read() != "old":
            return "the old file is gone"
    beside = [name for name in os.listdir(folder) if name.startswith("full.json.")]
    if process.returncode != 1 or b"full.json" not in err or beside:
        return f"exit {process.returncode}, beside {beside}: {err.decode()}"
    return None


def little_memory(_):
    """From hardly enough to start up to enough, in steps: exit 4 with one line, or done; never a crash."""
    if SANITIZED:
        return None
    seen = set()

    def run(kilobytes, *arguments):
        size = kilobytes << 10
        return subprocess.run([OUTRIDER, *arguments], capture_output=True, stdin=subprocess.DEVNULL,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))
    for kilobytes in range(20_000, 600_000, 5_000):
        if not seen and run(kilobytes, "--version").returncode != 0:
            continue  # libraries are loaded and set up before we are asked
        done = run(kilobytes, "run", "-m", "weights/tale/verifier", "-p", "the", "-n", "1", "-t", "1")
        err = done.stderr.decode(errors="replace")
        seen.add(done.returncode)
        if done.returncode not in (0, 4) or (done.returncode == 4 and "outrider: error: " not in err):
            return f"with {kilobytes} KB: exit {done.returncode}: {err[-300:]}"
        if done.returncode == 0:
            return None if 4 in seen else "memory was never short"
    return "600 MB are not enough"


def main():
    fine = True
    for name, test in [("a model that shrinks while it is mapped", shrinking), ("200 kills while saving", kills),
                       ("a full disk", full_disk), ("little memory", little_memory)]:
        with tempfile.TemporaryDirectory() as folder:
            tiny_model.write(folder)
            fine &= report(name, test(folder))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
