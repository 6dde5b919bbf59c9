"""The conversation as a person types it, through a pseudo-terminal, and as a script feeds it."""
import json
import os
import re
import signal
import stat
import subprocess
import time

import pexpect

from repl import (OUTRIDER, STATUS, READY, PLAIN_READY, WAIT, check, environment, start, ask, answer, leave,
                  wait_for_text, run_tests, typed)


def test_turns(folder):
    child = start(folder, "-n", "12", "--temp", "0")
    said = ask(child, "Good morning.")
    check("an answer and its numbers", re.search(STATUS, said) and len(said.strip().split("\n")) >= 2, said)
    stats = ask(child, "/stats")
    before = int(re.search(r"context: +(\d+) of 2048 tokens, 1 turns", stats)[1])
    check("/stats counts", re.search("generation: +12 tokens", stats), stats)
    ask(child, "And then?")
    stats = ask(child, "/stats")
    after = int(re.search(r"context: +(\d+) of 2048 tokens, 2 turns", stats)[1])
    read = int(re.search(r"prompt: +(\d+) tokens", stats)[1])
    check("a turn reads only what is new", before < after and read <= after - before, (before, after, read))
    check("/clear begins anew", "a new conversation" in ask(child, "/clear")
          and re.search("context: +0 of 2048 tokens, 0 turns", ask(child, "/stats")))
    listed = ask(child, "/help")
    check("/help lists", all(f"/{c}" in listed for c in ("clear", "regen", "set", "stats", "spec", "draft", "read",
                                                        "save", "load", "bye")), listed)
    check("Ctrl-D leaves with 0", leave(child) == 0, child.exitstatus)


def test_settings(folder):
    child = start(folder, "-n", "8", "-s", "5")
    for line, says in (("/set tmep 1", "did you mean temp"), ("/set top-p 3", "allowed: 0 to 1"),
                       ("/set model x", "cannot be set"), ("/set logit-bias 9999999=1", "error"),
                       ("/nonsense", "/nonsense is no command"), ("/spec maybe", "on or off"),
                       ("/draft 99", "allowed: -1 to 16"), ("/regen", "no answer yet"), ("/read", "a FILE is missing"),
                       ("/load no/such", "No such file")):
        said = ask(child, line)
        check(f"{line} is refused", says in said and said.count("outrider: error: ") == 1, said)
    ask(child, "/set temp 0")
    shown = ask(child, "/set")
    check("/set sets and shows", re.search(r"temp +0\n", shown) and re.search(r"seed +5\n", shown), shown)
    ask(child, "/spec off")
    plain = ask(child, "Hello.")
    ask(child, "/spec on")
    ask(child, "/draft 3")
    drafted = ask(child, "Hello again.")
    check("/spec and /draft switch speculation", "mean length" not in plain and "mean length" in drafted,
          (plain, drafted))
    ask(child, '/set system "You are a sailor."')
    shown = ask(child, "/set")
    check("/set system takes a text in quotes", re.search(r"system +You are a sailor\.\n", shown), shown)
    leave(child)


def test_regen(folder):
    child = start(folder, "-n", "16", "-s", "5", "--temp", "1.5", "--spec-accept", "coupled")
    first = answer(child, "Tell me something.")
    second = answer(child, "/regen")
    check("/regen answers anew", first and second and first != second, (first, second))
    stats = ask(child, "/stats")
    check("with the next seed, in the same place", "1 turns" in stats and "seed 6" in stats, stats)
    ask(child, "/set seed 5")
    ask(child, "/clear")
    again = answer(child, "Tell me something.")
    check("a seed brings its answer back", again == first, (again, first))
    leave(child)


def test_save(folder, path):
    child = start(folder, "-n", "8", "--temp", "0", "-sys", "You are a sailor.")
    said = answer(child, "Where are we?")
    check("/save tells", "1 turns saved" in ask(child, f"/save {path}"))
    saved = json.load(open(path))
    roles = [m["role"] for m in saved["messages"]]
    check("/save writes the turns", roles == ["system", "user", "assistant"]
          and saved["messages"][2]["content"].strip() == said and saved["settings"]["temp"] == "0", saved)
    check("for the owner only", stat.S_IMODE(os.stat(path).st_mode) == 0o600)
    check("and leaves nothing beside it", sorted(f for f in os.listdir(folder) if f.startswith("talk"))
          == ["talk.json", "talk.json.cache"])
    check("a place that is not there", "No such file" in ask(child, f"/save {folder}/no/such/place"))
    leave(child)
    return saved, said


def test_files(folder):
    path, other = f"{folder}/talk.json", f"{folder}/other.json"
    saved, said = test_save(folder, path)
    child = start(folder, "-n", "8")
    check("/load tells", "1 turns loaded" in ask(child, f"/load {path}"))
    shown = ask(child, "/set")
    check("settings are loaded too", re.search(r"temp +0\n", shown) and "You are a sailor" in shown, shown)
    system = saved["messages"][:1]
    long = [{"role": "user", "content": "word " * 4000}, {"role": "assistant", "content": ""}]
    bad = {"nothing": {}, "a setting": saved | {"settings": {"temp": "hot"}},
           "a model": saved | {"settings": {"model": "/etc"}}, "no answer": saved | {"messages": saved["messages"][:2]},
           "no text": saved | {"messages": [{"role": "user"}]}, "another format": saved | {"format": 7},
           "too long": saved | {"messages": system + long}}
    for name, content in bad.items():
        json.dump(content, open(other, "w"))
        said_of_it = ask(child, f"/load {other}")
        check(f"a bad file: {name}", said_of_it.split("\n")[-2].startswith("outrider: error: ")
              and said_of_it.count("outrider: error: ") == 1, said_of_it)
    open(other, "w").write('{"format": ')
    check("a bad file: no JSON", "line 1" in ask(child, f"/load {other}"))
    stats = ask(child, "/stats")
    check("a bad file changes nothing", int(re.search(r"context: +(\d+) of 2048 tokens, 1 turns", stats)[1]) > 8,
          stats)
    again = answer(child, "/regen")
    check("a loaded conversation goes on", again == said, (again, said))
    os.mkfifo(f"{folder}/fifo")
    check("/save replaces files alone", "not a regular file" in ask(child, f"/save {folder}/fifo"))
    open(other, "w").write("word " * 3000)
    ask(child, f"/read {other}")
    check("a message too long tells the way out", "/clear drops it" in ask(child, "Why?"))
    ask(child, "/clear")
    ask(child, f"/load {path}")
    open(other, "w").write("The island is called Esmeralda.")
    check("/read tells", "31 bytes go in front" in ask(child, f"/read {other}"))
    ask(child, "Where?")
    ask(child, f"/save {path}")
    message = json.load(open(path))["messages"][3]["content"]
    check("/read goes in front of the message", message == "The island is called Esmeralda.\nWhere?", message)
    leave(child)


def test_lines(folder):
    path = f"{folder}/lines.json"
    child = start(folder, "-n", "4", "--temp", "0")
    for line in ('"""one', "two"):
        child.sendline(line)
        child.expect(r"\x1b\[\?2004h\.\.\. ")
    ask(child, 'three"""')
    ask(child, "caf\u00e9x\u007f and \u65e5\u672c\u007f")  # Backspace takes a character, not a byte
    child.send("\033[200~pasted\rlines\033[201~")
    child.setwinsize(20, 60)
    ask(child, " and more")
    ask(child, "\033[A\033[A")  # the line before the last one
    ask(child, f"/save {path}")
    said = [m["content"] for m in json.load(open(path))["messages"] if m["role"] == "user"]
    check("three quotes hold several lines", said[0] == "one\ntwo\nthree", said)
    check("characters are edited whole", said[1] == "caf\u00e9 and \u65e5", said)
    check("a pasted text is one message", said[2] == "pasted\nlines and more", said)
    check("the arrows bring lines back", said[3] == said[1], said)
    leave(child)


def test_history(folder):
    child = start(folder, "-n", "2")
    ask(child, "Tell me of Esmeralda.")
    leave(child)
    history = f"{folder}/outrider/history"
    check("history is the owner's only", stat.S_IMODE(os.stat(history).st_mode) == 0o600)
    before = open(history).read()
    child = start(folder, "-n", "2", "--no-history")
    ask(child, "a secret")
    leave(child)
    check("--no-history writes none", open(history).read() == before)
    child = start(folder, "-n", "2")
    child.send("\033[A")
    check("history outlives the program", child.expect(["Esmeralda", pexpect.TIMEOUT], timeout=10) == 0, child.before)
    child.send("\033[200~" + "x" * 100000 + "\033[201~")
    child.sendintr()
    child.expect(READY)
    check("Ctrl-C drops a line, even of 100 KB", child.isalive())
    leave(child)


def test_interrupts(folder):
    endless = ["--ignore-eos", "-s", "1"]
    child = start(folder, *endless)
    child.sendline("Tell me a long story.")
    wait_for_text(child)
    begin = time.monotonic()
    child.sendintr()
    child.expect(READY)
    check("Ctrl-C stops the answer at once", re.search(STATUS, child.before) and time.monotonic() - begin < 2,
          child.before)
    check("and keeps it", "1 turns" in ask(child, "/stats"))
    ask(child, "/set predict 4")
    ask(child, "Go on.")
    check("the turn after it is well", "2 turns" in ask(child, "/stats"))
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    check("Ctrl-C at the empty prompt leaves with 130", child.exitstatus == 130, child.exitstatus)

    child = start(folder, *endless)
    child.sendline("Tell me a long story.")
    wait_for_text(child)
    child.sendintr()
    time.sleep(0.02)  # two that are pending together count as one
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    check("two in a row leave with 130", child.exitstatus == 130, (child.exitstatus, child.signalstatus))


def test_terminal_restored(folder):
    for name, end in (("Ctrl-D", "\004"), ("Ctrl-C", "\003"), ("SIGTERM", None), ("SIGTERM in an answer", None)):
        script = 'stty -g; "$0" chat --ignore-eos; code=$?; stty -g; echo "code $code"'
        child = pexpect.spawn("bash", ["-c", script, OUTRIDER],
                              env=environment(folder), timeout=WAIT, encoding="utf-8")
        child.expect(r"([0-9a-f:]{30,})\r")
        before = child.match[1]
        child.expect("/help lists")
        child.expect(READY)
        if "answer" in name:
            child.sendline("Tell me a long story.")
            wait_for_text(child)
        if end:
            child.send(end)
        else:
            inner = open(f"/proc/{child.pid}/task/{child.pid}/children").read().split()
            os.kill(int(inner[0]), signal.SIGTERM)
        child.expect(r"([0-9a-f:]{30,})\r")
        check(f"the terminal is as before after {name}", child.match[1] == before, (before, child.match[1]))
        child.expect(r"code (\d+)")
        check(f"the code after {name}", int(child.match[1]) == {"Ctrl-D": 0, "Ctrl-C": 130}.get(name, 143),
              child.match[1])
        child.close()


def test_plain_terminal(folder):
    for name, args, more in (("--simple-io", ["--simple-io"], {}), ("a dumb terminal", [], {"TERM": "dumb"})):
        child = start(folder, "-n", "4", *args, ready=PLAIN_READY, **more)
        child.sendline("Hello.")
        child.expect(STATUS)
        check(f"no escapes with {name}", "\033" not in child.before, child.before)
        leave(child)
    child = start(folder, "-n", "4", ready="> ", NO_COLOR="")
    child.sendline("Hello.")
    child.expect(STATUS)
    check("colour on a terminal", "\033[2m" in child.before, child.before)
    leave(child)


def script(folder, text, *args):
    return subprocess.run([OUTRIDER, "chat", *args], input=text, capture_output=True, text=True, timeout=WAIT,
                          env=environment(folder))


def test_script(folder):
    done = script(folder, "Hello.\nAnd you?\n/stats\n", "-n", "6", "--temp", "0")
    check("a script gets answers alone", done.returncode == 0 and "> " not in done.stdout
          and len(re.findall(STATUS, done.stderr)) == 2 and "2 turns" in done.stderr, (done.stdout, done.stderr))
    check("and no escapes", "\033" not in done.stdout + done.stderr, done.stdout)
    same = script(folder, '"""Hello."""\nAnd you?', "-n", "6", "--temp", "0", "--spec-type", "none")
    check("greedy answers do not depend on the draft", same.stdout == done.stdout, (same.stdout, done.stdout))
    done = script(folder, "Hello.\n/nonsense\nHello.\n", "-n", "2")
    check("an error ends a script", done.returncode == 2 and len(re.findall(STATUS, done.stderr)) == 1, done.stderr)
    done = script(folder, "word " * 300 + "\n", "-c", "128")
    check("a message longer than the context is refused", done.returncode == 2 and not done.stdout
          and "128" in done.stderr, done.stderr)
    done = script(folder, "Tell me a story.\n", "-c", "64", "--ignore-eos")
    check("a full context is told", done.returncode == 0 and "context of 64 tokens is full" in done.stderr, done.stderr)
    done = script(folder, "", "--chat-template", "nonsense")
    check("an unknown template is refused", done.returncode == 2 and "zephyr" in done.stderr, done.stderr)
    with open("/dev/full", "w") as full:
        done = subprocess.run([OUTRIDER, "chat", "-n", "4"], input="Hello.\n", stdout=full, stderr=subprocess.PIPE,
                              text=True, env=environment(folder), timeout=WAIT)
    check("a full disk ends a conversation", done.returncode == 1 and "standard output" in done.stderr, done.stderr)


def test_branches(folder):
    child = start(folder, "-n", "12", "--temp", "0")
    answer(child, "Tell me of a king.")
    second = answer(child, "And his daughter?")
    check("/undo takes a turn back", "1 are left" in ask(child, "/undo"))
    check("and the same question has the same answer", answer(child, "And his daughter?") == second)
    check("/fork begins a branch", "on branch other; /switch main" in ask(child, "/fork other"))
    other = answer(child, "Go on.")
    check("two names are one too many", "there is a branch other" in ask(child, "/fork other"))
    listed = ask(child, "/switch")
    check("/switch lists", "main                2 turns" in listed and "* other               3 turns" in listed, listed)
    ask(child, "/switch main")
    check("branches go on alike", answer(child, "Go on.") == other)
    check("the present branch stays", "you are on main" in ask(child, "/drop main"))
    check("/drop ends another", "is gone" in ask(child, "/drop other") and "other" not in ask(child, "/switch"))
    check("/forget drops the oldest", "2 turns forgotten, 1 are left" in ask(child, "/forget 2"))
    check("and not more than there are", "how many" in ask(child, "/forget 5"))
    ask(child, "And then?")
    check("what is left goes on", "2 turns" in ask(child, "/stats"))
    check("/help tells more of one", "Copies share the cache" in ask(child, "/help fork"))
    check("/show shows", re.search(r"temp +0\n", ask(child, "/show")))
    leave(child)


def test_cache_returns(folder):
    path = f"{folder}/long.json"
    child = start(folder, "-n", "20", "-s", "9", "--temp", "1")
    for line in ("Tell me of a king.", "And his daughter?", "Go on."):
        answer(child, line)
    ask(child, f"/save {path}")
    want = answer(child, "And then?")
    leave(child)
    child = start(folder, "-n", "20")
    ask(child, f"/load {path}")
    again = answer(child, "And then?")
    stats = ask(child, "/stats")
    read = int(re.search(r"prompt: +(\d+) tokens", stats)[1])
    check("a loaded conversation writes the same", again == want, (again, want))
    check("and reads the new turn alone", read < 25, stats)
    ask(child, "/undo")
    saved = open(f"{path}.cache", "rb").read()
    open(f"{path}.cache", "wb").write(saved[:-9] + bytes([saved[-9] ^ 1]) + saved[-8:])
    said = ask(child, f"/load {path}")
    check("a damaged cache is told, and the text read anew", "read anew" in said and "3 turns loaded" in said, said)
    os.remove(f"{path}.cache")
    check("so is one that is gone", "read anew" in ask(child, f"/load {path}"))
    answer(child, "And then?")
    leave(child)


def test_keys(folder):
    child = start(folder, "-n", "4", "--temp", "0", EDITOR="sh -c 'printf \" from the editor\" >> $0'")
    open(f"{folder}/unique-name.txt", "w").write("A text.")
    child.send("/gl\t")
    child.send(f"{folder}/unique\t\r")
    child.expect(READY)
    check("Tab completes commands and files", "bytes go in front" in child.before,
          child.before)
    ask(child, "/clear")
    child.send("/set te\t0.25\r")
    child.expect(READY)
    check("Tab completes settings", re.search(r"temp +0\.25\n", ask(child, "/show")), child.before)
    child.send("half\007")
    child.expect("half from the editor")
    ask(child, "")
    ask(child, f"/save {folder}/edited.json")
    said = json.load(open(f"{folder}/edited.json"))["messages"][0]["content"]
    check("Ctrl-G edits the line elsewhere", said == "half from the editor", said)
    ask(child, "/clear")
    child.send("\033[200~" + "caf\u00e9 " * 20000 + "\033[201~")
    said = ask(child, "")
    check("a pasted text of 120 KB comes whole", "tokens" in said and "holds 2048" in said, said[-200:])
    leave(child)
    child = start(folder, "-n", "24", "--temp", "0", "--color", "on", ready=r"\x1b\[\?2004h", NO_COLOR="")
    child.sendline("Tell me of a king.")
    child.expect(STATUS)
    child.expect(child.ready)
    child.sendline("/spec show")
    child.expect("the verifier's own")
    check("/spec show colours", "\033[32m" in child.before, child.before)
    child.sendeof()
    child.close()


def test_glob(folder):
    child = start(folder, "-n", "4", "--temp", "0")
    for name, text in (("a.txt", "First."), ("b.txt", "Second.")):
        open(f"{folder}/{name}", "w").write(text)
    check("/glob tells", "bytes go in front" in ask(child, f"/glob {folder}/*.txt"))
    ask(child, "What are they?")
    ask(child, f"/save {folder}/globbed.json")
    said = json.load(open(f"{folder}/globbed.json"))["messages"][0]["content"]
    check("/glob puts the files in front, with their names", said ==
          f"{folder}/a.txt:\nFirst.\n{folder}/b.txt:\nSecond.\nWhat are they?", said)
    check("nothing like it", "nothing is called like" in ask(child, "/glob *.none"))
    leave(child)


def test_every_command(folder):
    """What the others have not typed; then none may be left that is listed."""
    child = start(folder, "-n", "4", "--temp", "0")
    ask(child, "Hello.")
    check("/spec hide", "error" not in ask(child, "/spec hide"))
    check("/? is /help", ask(child, "/?") == ask(child, "/help"))
    check("who types exit is told how", re.search("note: .*/bye leaves.*" + STATUS, ask(child, "exit"), re.S))
    check("a slip is guessed", "did you mean /clear?" in ask(child, "/cler"))
    check("a path is told from a command", "a space in front" in ask(child, "/etc/passwd")
          and re.search(STATUS, ask(child, " /etc/passwd is a file")))
    listed = set(re.findall(r"^/([a-z]+) ", ask(child, "/help"), re.M))
    leave(child)
    for word in ("bye", "exit", "quit"):
        child = start(folder)
        child.sendline(f"/{word}")
        child.expect(pexpect.EOF)
        child.close()
        typed.add(word)
        check(f"/{word} leaves with 0", child.exitstatus == 0, child.exitstatus)
    check("every command that /help lists was tried", len(listed) > 15 and listed <= typed, listed - typed)


run_tests(test_turns, test_branches, test_cache_returns, test_keys, test_settings, test_regen, test_files, test_lines,
          test_history, test_interrupts, test_terminal_restored, test_plain_terminal, test_script, test_glob,
          test_every_command)
