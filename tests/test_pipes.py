"""Pipes as scripts use them: large ones, empty ones, any bytes, full disks, readers that leave. Each with the exit code
and the very lines it must give."""
import json
import os
import re
import signal
import subprocess
import tempfile

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
ENV = {k: v for k, v in os.environ.items() if not k.startswith("OUTRIDER")} | {"OUTRIDER_SPEC_DRAFT_N_MAX": "3"}
GREEDY = ["--temp", "0", "-n", "8"]
TEN_MB = 10_000_000
FULL = "outrider: error: standard output: No space left on device\n"


def outrider(*args, sent=b"", out=subprocess.PIPE, **more):
    return subprocess.run([OUTRIDER, *args], input=sent, stdout=out, stderr=subprocess.PIPE, env=ENV, timeout=300, **more)


def measured(*args, sent):
    """The same, and the most memory that it held, in MB."""
    with tempfile.TemporaryFile() as err:
        child = subprocess.Popen([OUTRIDER, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, env=ENV)
        child.stdin.write(sent)
        child.stdin.close()
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        return subprocess.CompletedProcess(args, child.returncode, out, err.read()), usage.ru_maxrss / 1000


def test_large():
    text = (b"The quick brown fox jumps over the lazy dog. " * (TEN_MB // 45 + 1))[:TEN_MB]
    for name, sent in (("text", text), ("bytes that are no UTF-8", b"\xff\xc0\x80\xed\xa0\x80 " * (TEN_MB // 7)),
                       ("one letter", b"a" * TEN_MB)):
        done, megabytes = measured("run", *GREEDY, sent=sent)
        said = re.fullmatch(r"outrider: error: the prompt has (?:at least )?(\d+) tokens, the context holds 2048, all "
                            r"that the models know\n", done.stderr.decode())
        check(f"10 MB of {name} are refused, not cut", done.returncode == 2 and not done.stdout and said
              and int(said[1]) > TEN_MB // 45, (done.returncode, done.stderr))
        check("in memory of their measure", megabytes < 200, megabytes)
    done = outrider("eval", "-f", "-", "-c", "64", sent=text[:2000])
    check("eval reads a pipe", done.returncode == 0 and b"perplexity" in done.stdout and not done.stderr, done)
    large = subprocess.Popen([OUTRIDER, "run", *GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=ENV)
    for word in (b"Once", b" upon a", b" time"):  # a pipe that comes in parts
        large.stdin.write(word)
        large.stdin.flush()
    out, _ = large.communicate(timeout=300)
    check("a slow pipe is one prompt", out == outrider("run", "-p", "Once upon a time", *GREEDY).stdout, out)


def test_bytes():
    """Nothing is lost or added: output is the text alone, always UTF-8, and JSON holds the same."""
    for name, sent in (("a lone continuation", b"\x80"), ("a cut character", b"caf\xc3"), ("an overlong form", b"\xc0\xaf"),
                       ("a surrogate", b"\xed\xa0\x80"), ("beyond Unicode", b"\xf5\x80\x80\x80"),
                       ("NUL", b"a\0b"), ("all bytes", bytes(range(256))), ("only white space", b" \n\t ")):
        done = outrider("run", *GREEDY, sent=sent)
        asked = outrider("run", "--json", *GREEDY, sent=sent)
        try:
            same = json.loads(asked.stdout)["text"].encode() == done.stdout and done.stdout.decode("utf-8") is not None
        except ValueError:
            same = False
        check(f"a prompt of {name}", done.returncode == 0 and same, (done, asked))
    begun = outrider("run", "-p", "Once upon a time", *GREEDY).stdout
    check("no newline is added in a pipe", not begun.endswith(b"\n") and begun.strip(), begun)
    check("what --no-stream writes is the same", outrider("run", "-p", "Once upon a time", "--no-stream", *GREEDY).stdout
          == begun)


def test_empty():
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/empty", "w").close()
        for args, code, line in (
                (["run"], 2, "no prompt: give -p TEXT, -f FILE, or text on standard input"),
                (["eval", "-f", "-"], 2, "the text has 0 tokens: nothing to score"),
                (["run", "--batch", "-"], 1, "-: there are no prompts in it"),
                (["run", "--batch", f"{folder}/empty"], 1, f"{folder}/empty: there are no prompts in it"),
                (["bench", "--prompts", f"{folder}/empty"], 1, f"{folder}/empty: there are no prompts in it"),
                (["run", "-f", folder], 1, f"{folder}: Is a directory"),
                (["run", "-p", "x", "-m", f"{folder}/empty"], 3, f"{folder}/empty: the file is empty")):
            done = outrider(*args)
            check(f"nothing to read: {' '.join(args).replace(folder, '')}", done.returncode == code and not done.stdout
                  and done.stderr.decode() == f"outrider: error: {line}\n", (done.returncode, done.stderr))
        done = outrider("run", "-f", f"{folder}/empty", *GREEDY)
        check("an empty file is a prompt of nothing", done.returncode == 0 and done.stdout, done)
    done = outrider("chat")
    check("an empty conversation ends well", done.returncode == 0 and not done.stdout and not done.stderr, done)


def test_full():
    batch = b'{"prompt": "x", "n_predict": 2}\n'
    short = ["-p", "x", *GREEDY]
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/text", "w").write("Once upon a time there was a king.")
        for args, sent in ((["run", *short], b""), (["run", "--no-stream", *short], b""), (["run", "--json", *short], b""),
                           (["run", "--jsonl", *short], b""), (["run", "--batch", "-"], batch),
                           (["chat", "-n", "2"], b"Hello.\n"), (["eval", "-f", f"{folder}/text"], b""),
                           (["eval", "--json", "-f", f"{folder}/text"], b""), (["inspect"], b""),
                           (["inspect", "--json"], b""), (["config"], b""), (["--help"], b""), (["run", "--help"], b""),
                           (["--man"], b""), (["--version"], b""), (["--completion", "zsh"], b""),
                           (["bench", "-p", "8", "-n", "4", "-r", "1", "--spec-draft-n-max", "2"], b"")):
            with open("/dev/full", "w") as full:
                done = outrider(*args, sent=sent, out=full)
            check(f"a full disk under {' '.join(args[:2])}".replace(folder, ""), done.returncode == 1
                  and done.stderr.decode() == FULL, (done.returncode, done.stderr))


def test_closed():
    for args in (["run", "-p", "x", "--ignore-eos", "-n", "600"], ["run", "-p", "x", "--jsonl", "-n", "600", "--ignore-eos"],
                 ["run", "--help"]):
        child = subprocess.Popen([OUTRIDER, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env=ENV)
        child.stdout.read(1)
        child.stdout.close()
        said = child.stderr.read()
        code = child.wait(60)
        # help may be in the pipe whole before the reader leaves
        quiet = code == -signal.SIGPIPE or (code == 0 and args[1] == "--help")
        check(f"a reader that leaves {' '.join(args[:2])} {args[3] if len(args) > 3 else ''}", quiet and not said,
              (code, said))


for test in (test_large, test_bytes, test_empty, test_full, test_closed):
    test()
finish()
