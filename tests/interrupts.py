"""Ctrl-C at random points of a conversation: once, after which the next turn is as if nothing had been, and twice,
after which the terminal is as before. POINTS=100 of each by default; SEED repeats a run. `make interrupts`."""
import os
import random
import re
import sys
import tempfile
import time

import pexpect

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
POINTS, SEED = int(os.environ.get("POINTS", "100")), int(os.environ.get("SEED", "1"))
# An answer must outlast the pauses before Ctrl-C, and the shell around the program must outlive both.
READY = r"\x1b\[\?2004h> "
WAIT = 300
ARGUMENTS = ["chat", "--temp", "0", "--ignore-eos", "-n", "1500", "--stop", "the king said to the queen of"]


def environment(folder):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OUTRIDER")}
    return kept | {"XDG_STATE_HOME": folder, "XDG_CONFIG_HOME": folder, "TERM": "xterm", "NO_COLOR": "1", "LANG": "C.UTF-8",
                   "OUTRIDER_SPEC_DRAFT_N_MAX": "3"}


def ask(child, line):
    child.sendline(line)
    child.expect(READY)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", child.before).replace("\r", "").split("\n", 1)[1]


def words(said):
    return said.split("[ Prompt:")[0]


def begin(folder):
    child = pexpect.spawn(OUTRIDER, ARGUMENTS, env=environment(folder), timeout=WAIT, encoding="utf-8",
                          codec_errors="replace", dimensions=(40, 160))
    child.expect(READY)
    return child


def once(folder, chance):
    """The turn after an interrupted one, and after one that was taken back, against an undisturbed conversation."""
    child = begin(folder)
    ask(child, "/set predict 12")
    want = words(ask(child, "Tell me of a king."))
    bad = 0
    for point in range(POINTS):
        ask(child, "/clear")
        ask(child, "/set predict 1500")
        child.sendline("Tell me a long story.")
        time.sleep(chance.uniform(0, 0.4))
        child.sendintr()
        index = child.expect([READY, pexpect.EOF])
        if index == 1:  # it fell on the empty prompt behind an answer that was done, and left
            child = begin(folder)
            continue
        time.sleep(0.01)
        ask(child, "/set predict 12")
        turns = ask(child, "/stats")
        if "1 turns" in turns:
            ask(child, "/undo")
        got = words(ask(child, "Tell me of a king."))
        if got != want:
            bad += 1
            print(f"FAIL point {point}: {got!r} for {want!r}")
    child.sendeof()
    child.expect(pexpect.EOF)
    return bad


def twice(folder, chance):
    """Two in a row end the program with 130, or the first falls on an answer that is done and the second on the
    prompt; the terminal is as before in any case."""
    bad = 0
    for point in range(POINTS):
        child = pexpect.spawn("bash", ["-c", 'trap : INT; stty -g; "$0" "$@"; code=$?; trap "" INT; stty -g; echo "code $code"', OUTRIDER, *ARGUMENTS],
                              env=environment(folder), timeout=WAIT, encoding="utf-8", codec_errors="replace")
        child.expect(r"([0-9a-f:]{30,})\r")
        before = child.match[1]
        child.expect(READY)
        child.sendline("Tell me a long story.")
        time.sleep(chance.uniform(0, 0.4))
        child.sendintr()
        time.sleep(chance.uniform(0, 0.05))
        child.sendintr()
        index = child.expect([r"([0-9a-f:]{30,})\r", READY])
        if index == 1:
            child.sendintr()
            child.expect(r"([0-9a-f:]{30,})\r")
        after = child.match[1]
        child.expect(r"code (\d+)")
        if after != before or child.match[1] != "130":
            bad += 1
            print(f"FAIL point {point}: code {child.match[1]}, terminal {'as before' if after == before else after}")
        child.close()
    return bad


def main():
    with tempfile.TemporaryDirectory() as folder:
        for test in (once, twice):
            bad = test(folder, random.Random(SEED))
            print(f"{'FAIL' if bad else 'ok'} Ctrl-C {test.__name__} at {POINTS} points", flush=True)
            if bad:
                sys.exit(1)


main()
