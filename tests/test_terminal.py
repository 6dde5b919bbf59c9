"""The terminal itself: windows that change their size while a line is edited or an answer is written, as the screen
shows it (pyte draws what a terminal would), large pasted texts, plain terminals, and branches that were saved."""
import json
import os
import random
import re
import subprocess
import time

import pexpect
import pyte

from repl import (OUTRIDER, PLAIN_READY, READY, STATUS, WAIT, answer, ask, check, environment, leave, run_tests, start,
                  wait_for_text)

GREEDY = ["-n", "24", "--temp", "0"]


class Window:
    """The program in a terminal of which the screen is known."""

    def __init__(self, folder, rows, columns, **more):
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.Stream(self.screen)
        # the screen below leaves its rows alone when its width changes, as xterm does
        self.child = pexpect.spawn(OUTRIDER, ["chat", *GREEDY], encoding="utf-8", dimensions=(rows, columns), timeout=60,
                                   env=environment(folder, XTERM_VERSION="XTerm(379)", **more))

    def rows(self):
        return [row.rstrip() for row in self.screen.display if row.strip()]

    def shows_status(self):
        """Whether the line of an answer's numbers stands there, over as many rows as it takes."""
        return re.search(STATUS, "".join(self.screen.display))

    def until(self, good):
        """Waits until the screen is as it should be; whether it ever was."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                self.stream.feed(self.child.read_nonblocking(65536, 0.1))
            except pexpect.TIMEOUT:
                if good(self.rows()):
                    return True
        return False

    def resize(self, rows, columns):
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)


def edited(line, columns):
    """The rows that a line takes behind its prompt."""
    return [row.rstrip() for row in re.findall(f".{{1,{columns}}}", "> " + line)]


def test_resize_while_editing(folder):
    window = Window(folder, 30, 80)
    line = " ".join(f"w{i:02}" for i in range(60))
    window.until(lambda rows: rows and rows[-1] == ">")
    window.child.send(line)
    check("a long line takes rows", window.until(lambda rows: rows[-4:] == [*edited(line, 80)][-4:]), window.rows())
    for columns in (50, 120, 33, 200, 64):
        window.resize(30, columns)
        want = edited(line, columns)

        def once(rows):
            return rows[-len(want):] == want and sum(row.startswith("> ") for row in rows) == 1
        check(f"drawn anew, once, in {columns} columns", window.until(once), (want, window.rows()))
    window.child.send("\x01\x1b[C\x1b[Cx\x05 end")  # Home, right, right, then the end
    line = line[:2] + "x" + line[2:] + " end"
    want = edited(line, 64)
    check("and edited on in its place", window.until(lambda rows: rows[-len(want):] == want), (want, window.rows()))
    window.child.send("\r")
    check("and answered", window.until(lambda rows: rows[-1] == ">" and window.shows_status()), window.rows())
    window.child.send(f"/save {folder}/talk.json\r")
    window.until(lambda rows: any("1 turns saved" in row for row in rows))
    said = json.load(open(f"{folder}/talk.json"))["messages"][0]["content"]
    check("what is sent is what was typed", said == line, said)
    window.child.close()


def test_resize_while_answering(folder):
    calm = start(folder, "-n", "300", "--temp", "0", "--ignore-eos")
    want = answer(calm, "Tell me of a king.")
    leave(calm)
    child = start(folder, "-n", "300", "--temp", "0", "--ignore-eos")
    child.sendline("Tell me of a king.")
    wait_for_text(child)
    head = child.before + child.after
    for columns in (40, 200, 1, 80):
        child.setwinsize(24, columns)
        time.sleep(0.05)
    child.expect(READY)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", head + child.before).replace("\r", "").split("\n", 1)[1]
    got = text[:re.search(STATUS, text).start()].strip()
    check("a window that changes does not touch the answer", got == want, (got, want))
    check("nor the next turn", re.search(STATUS, ask(child, "Go on.")))
    leave(child)


def test_paste(folder):
    copy = f"{folder}/copy"
    child = start(folder, *GREEDY, EDITOR=f"sh -c 'cp $0 {copy}'")
    text = "".join(f"line {i} of a caf\u00e9, \u65e5\u672c \"\"\" /bye\n" for i in range(3000))[:100_000]
    child.send("\033[200~" + text.replace("\n", "\r") + "\033[201~")
    child.send("\007")
    end = time.monotonic() + 60
    while not os.path.exists(copy) and time.monotonic() < end:
        try:
            child.read_nonblocking(65536, 0.1)
        except pexpect.TIMEOUT:
            pass
    child.send("\003")
    child.expect(READY)
    got = open(copy, encoding="utf-8").read() if os.path.exists(copy) else None
    check("a pasted text of 100,000 characters comes whole", got == text, got and (len(got), got[-40:]))
    said = ask(child, "Good morning.")
    check("and the turn after it is well", re.search(STATUS, said), said)
    leave(child)


def test_interrupted_paste(folder):
    """Ctrl-C takes away what the terminal still holds of a pasted text; the program must not wait for the rest."""
    chance, child, hung = random.Random(1), start(folder), 0
    for _ in range(40):
        child.delaybeforesend = None
        child.send("\033[200~" + "x" * chance.randrange(3000, 12000) + "\033[201~")
        time.sleep(chance.uniform(0.001, 0.005))
        child.sendintr()
        index = child.expect([READY, pexpect.EOF, pexpect.TIMEOUT], timeout=20)
        hung += index == 2
        if index:  # left: the program had not seen a byte of it
            child.close(force=True)
            child = start(folder)
    check("Ctrl-C at 40 points of a pasted text", not hung, hung)
    child.close(force=True)


def test_typed_ahead(folder):
    """What is typed while the models load or an answer is written waits whole, and is not mixed into the text."""
    path, text = f"{folder}/ahead.json", "the king " * 600
    child = pexpect.spawn(OUTRIDER, ["chat", "-n", "300", "--temp", "0", "--ignore-eos"], env=environment(folder),
                          timeout=WAIT, encoding="utf-8", dimensions=(40, 160), echo=False)
    child.ready = READY
    child.delaybeforesend = None
    child.send("Tell me of a king.\r")
    child.expect(READY)
    wait_for_text(child)
    child.send(text + "end\r")
    child.expect(STATUS)
    check("nothing typed ahead shows in the answer", "the king the king the king" not in child.before, child.before)
    child.expect(READY)
    child.expect(STATUS)
    child.expect(READY)
    ask(child, f"/save {path}")
    said = [m["content"] for m in json.load(open(path))["messages"] if m["role"] == "user"]
    check("typed while it loads", said[:1] == ["Tell me of a king."], said[:1])
    check("typed under an answer, in a line of 5 KB", said[1:] == [text + "end"], (len(said), len(said[-1])))
    leave(child)


def test_plain(folder):
    """Every kind of line of a conversation, without a single escape."""
    path = f"{folder}/plain.json"
    for name, args, more in (("--simple-io", ["--simple-io"], {}), ("a dumb terminal", [], {"TERM": "dumb"}),
                             ("no TERM", [], {"TERM": ""})):
        child = start(folder, *GREEDY, *args, ready=PLAIN_READY, **more)
        first = answer(child, "Tell me of a king.")
        listed = ask(child, "/help") + ask(child, "/stats") + ask(child, f"/save {path}") + ask(child, "/nonsense")
        child.setwinsize(10, 30)
        ask(child, "/undo")
        again = answer(child, "Tell me of a king.")
        check(f"a conversation with {name}", first and again == first and "1 turns saved" in listed
              and "/nonsense is no command" in listed and "\033" not in listed, (first, again, listed))
        long = ask(child, "x" * 6000)
        check("a line longer than such a terminal holds is refused", "4095 bytes" in long and "nothing was sent" in long
              and "1 turns" in ask(child, "/stats"), long)
        check("Ctrl-D leaves it", leave(child) == 0, child.exitstatus)
    child = on_terminal(folder, "run", "-p", "-", *GREEDY)
    child.sendline("x" * 6000)
    while child.isalive():
        child.sendeof()  # the terminal loses one that comes before its line was read
        if child.expect(["4095 bytes.*-f", pexpect.TIMEOUT], timeout=1) == 0:
            break
    child.expect(pexpect.EOF)
    child.close()
    check("in a prompt that is typed too", child.exitstatus == 2, child.exitstatus)


def test_round_trips(folder):
    """A branch, saved and loaded, in another program or in place of another talk, goes on with the same tokens."""
    for settings in (["--temp", "0"], ["--temp", "1", "-s", "11"]):
        child = start(folder, "-n", "20", *settings)
        answer(child, "Tell me of a king.")
        ask(child, "/fork other")
        answer(child, "And his daughter?")
        for branch in ("other", "main"):
            ask(child, f"/switch {branch}")
            ask(child, f"/save {folder}/{branch}.json")
        want = {}
        for branch in ("main", "other"):
            ask(child, f"/switch {branch}")
            want[branch] = answer(child, "And then?")
        ask(child, f"/load {folder}/other.json")
        check(f"loaded over another talk, {' '.join(settings)}", answer(child, "And then?") == want["other"])
        leave(child)
        child = start(folder, "-n", "20")
        for branch in ("other", "main"):
            ask(child, f"/load {folder}/{branch}.json")
            got = answer(child, "And then?")
            check(f"{branch} loaded by another program, {' '.join(settings)}", got == want[branch], (got, want[branch]))
        leave(child)


def test_full_context(folder):
    child = start(folder, "-c", "160", "-n", "40", "--temp", "0", "--ignore-eos")
    said = "".join(ask(child, "Tell me of a king.") for _ in range(5))
    check("a full context names the choices", all(word in said for word in ("160", "/clear", "/forget", "-c")), said)
    check("and drops nothing", int(re.search(r"(\d+) turns", ask(child, "/stats"))[1]) >= 2)
    left = int(re.search(r"(\d+) turns", ask(child, "/stats"))[1])
    check("/forget makes room", f"{left - 2} are left" in ask(child, "/forget 2"))
    check("and the talk goes on", re.search(STATUS, ask(child, "And then?")))
    leave(child)


def on_terminal(folder, *args, rows=40, columns=160):
    return pexpect.spawn(OUTRIDER, [*args], env=environment(folder), timeout=WAIT, encoding="utf-8",
                         dimensions=(rows, columns))


def test_bars(folder):
    """Long work shows how far it is, at what rate, and what is left."""
    with open(f"{folder}/prompts", "w") as prompts:
        prompts.writelines('{"prompt": "Once upon a time", "n_predict": 64, "ignore_eos": true}\n' for _ in range(400))
    with open(f"{folder}/text", "w") as text:
        text.write("Once upon a time there was a king who had three sons. " * 20_000)
    for name, args, unit in (("a batch", ["run", "--batch", f"{folder}/prompts"], "prompts"),
                             ("bench", ["bench", "-r", "100", "-n", "16", "-p", "64"], "runs"),
                             ("eval", ["eval", "-f", f"{folder}/text"], "tokens")):
        child = on_terminal(folder, *args)
        child.expect(rf"\[#* *\] +\d+%  [\d.]+ {unit}/(s|min), \d+ (s|min) left")
        check(f"{name} says how long it will take", True)
        child.close(force=True)
    for name, args in (("loading", []), ("quantising", ["--quant", "q4"])):
        child = on_terminal(folder, "run", "-p", "Once", "-n", "2", *args)
        child.expect(rf"{name} the verifier \[ *\]   0%.*{name} the verifier \[#{{20}}\] 100%")
        child.expect(pexpect.EOF)
        check(f"{name} is shown", True)


def test_long_prompt(folder):
    """The bar of a prompt that takes long to read, and then all of the text in its place."""
    with open(f"{folder}/text", "w") as text:
        text.write("Once upon a time there was a king who had three sons. " * 120)
    args = ["run", "-f", f"{folder}/text", *GREEDY]
    want = subprocess.run([OUTRIDER, *args], capture_output=True, env=environment(folder), timeout=WAIT).stdout.decode()
    child = on_terminal(folder, *args)
    child.expect(pexpect.EOF)
    screen = pyte.Screen(160, 40)
    pyte.Stream(screen).feed(child.before)
    got = "\n".join(row.rstrip() for row in screen.display)
    check("a long prompt is read under a bar", re.search(r"reading \[#+ *\] +\d+%", child.before), child.before)
    check("which gives way to the whole text", want.strip() and got.strip().startswith(want.strip()), (want, got))


run_tests(test_resize_while_editing, test_resize_while_answering, test_paste, test_interrupted_paste, test_typed_ahead,
          test_plain, test_round_trips, test_full_context, test_bars, test_long_prompt)
