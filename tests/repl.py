"""What the tests of the conversation share: a program on a pseudo-terminal, a line typed, its answer, and the count of
what failed."""
import os
import re
import sys
import tempfile

import pexpect

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
STATUS = (r"\[ Prompt: [0-9.]+ t/s \| Generation: \d+ tokens, [0-9.]+ t/s(, [0-9.]+x plain|)"
          r"( \| accepted \d+%, mean length \d+\.\d\d|) \]")
READY = r"\x1b\[\?2004h> "  # the terminal is told to mark pasted text once for each prompt
PLAIN_READY = "\n> "
WAIT = 300  # seconds: generous, for a loaded machine must not fail a test
typed = set()  # the commands that a test has typed


def environment(folder, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OUTRIDER")}
    # a fixed K: to choose one the engine first measures the machine, each time
    return kept | {"XDG_STATE_HOME": folder, "TERM": "xterm", "NO_COLOR": "1", "LANG": "C.UTF-8",
                   "OUTRIDER_SPEC_DRAFT_N_MAX": "3"} | more


def start(folder, *args, ready=READY, **more):
    child = pexpect.spawn(OUTRIDER, ["chat", *args], env=environment(folder, **more), timeout=WAIT, encoding="utf-8",
                          codec_errors="replace", dimensions=(40, 160))
    child.ready = ready
    child.expect("/help lists the commands")
    child.expect(ready)
    return child


def ask(child, line):
    """Types a line; what appeared until the next prompt, without the line and the terminal's sequences."""
    typed.update(re.findall(r"^/([a-z?]+)", line))
    child.sendline(line)
    child.expect(child.ready)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", child.before).replace("\r", "").split("\n", 1)[1]


def answer(child, line):
    said = ask(child, line)
    return said[:re.search(STATUS, said).start()].strip()


def leave(child):
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def wait_for_text(child):
    """Until an answer is being written."""
    child.expect(r"[a-z]{2,}[ ,.]+[a-z]{2,}[ ,.]+[a-z]{2,}")


def run_tests(*tests):
    """Each with a folder of its own for what the program keeps; then the exit code."""
    for test in tests:
        with tempfile.TemporaryDirectory() as state:
            try:
                test(state)
            except (pexpect.TIMEOUT, pexpect.EOF) as problem:
                check(f"{test.__name__} went through", False, str(problem)[:1500])
            sys.stdout.flush()
    finish()
