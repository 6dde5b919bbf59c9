"""The command line as a script sees it: streams, exit codes, JSON, options and their environment, pipes."""
import csv
import io
import json
import math
import re
import os
import signal
import subprocess
import tempfile
import time

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
TALE = "weights/tale"
ONCE = "Once upon a time there was a young prince who lived in a castle by the sea, and"
# A fixed K, unless a test asks for another: the engine first measures the machine to choose one, each time.
PLAIN_ENV = {k: v for k, v in os.environ.items() if not k.startswith("OUTRIDER") and k != "NO_COLOR"}
PLAIN_ENV["OUTRIDER_SPEC_DRAFT_N_MAX"] = "3"


def outrider(*args, stdin=None, env=None, text=True):
    given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([OUTRIDER, *args], capture_output=True, text=text, timeout=60,
                          env=PLAIN_ENV | (env or {}), **given)


SANITIZED = "sanitizers" in outrider("run", "-p", "x", "-n", "1", "--sandbox", "on").stderr


def result(*args, **more):
    done = outrider("run", "--json", *args, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(name, code, *args, says=(), **more):
    """Exit code, exactly one line of error, nothing on standard output."""
    done = outrider(*args, **more)
    lines = done.stderr.strip().split("\n")
    good = (done.returncode == code and not done.stdout and len(lines) == 1
            and lines[0].startswith("outrider: error: ") and all(s in lines[0] for s in says))
    check(name, good, (done.returncode, done.stdout, done.stderr))


def test_about():
    for words in (["--help"], ["--version"], ["--man"], ["--completion"], ["run", "--help"], ["chat", "-h"]):
        done = outrider(*words)
        check(f"{' '.join(words)} explains on standard output", done.returncode == 0 and done.stdout
              and not done.stderr, done.stderr)
    done = outrider()
    check("no command at all is wrong usage", done.returncode == 2 and not done.stdout, done.returncode)
    words = outrider("run", "--help=penalty").stdout
    check("--help=WORD shows what mentions WORD", "--repeat-penalty" in words and "--top-k" not in words, words)
    words = outrider("run", "--help=no-such-word").stdout
    check("or that nothing does", "no option mentions 'no-such-word'" in words and "--top-k" not in words, words)
    defaults = outrider("bench", "--help").stdout
    check("an option and what it does share a line", re.search(r"--n-gen LIST +numbers of tokens", defaults)
          and not re.search(" $", defaults, re.M), defaults)
    check("an option as wide as its column keeps its distance", "md|csv|json|jsonl\n" in defaults, defaults)
    check("help shows defaults", "(default: auto,2,4,8)" in " ".join(defaults.split()), defaults)


def test_streams():
    seeded = ["-p", ONCE, "-n", "24", "-s", "7"]
    done = outrider("run", *seeded)
    check("text and numbers go to their streams", done.returncode == 0 and "t/s" in done.stderr
          and "t/s" not in done.stdout and "seed 7" in done.stderr, done.stderr)
    check("no escapes outside a terminal", "\033" not in done.stdout + done.stderr)
    coloured = outrider("run", "-p", ONCE, "-n", "2", "--color", "on")
    check("--color on colours anyway", "\033[" in coloured.stderr and "\033" not in coloured.stdout, coloured.stderr)
    late = outrider("run", *seeded, "--no-stream")
    check("--no-stream writes the same text", late.stdout == done.stdout, late.stdout)
    found = result(*seeded)
    check("--json holds the same text", found["text"] == done.stdout, found["text"])
    check("--json counts its tokens", len(found["tokens"]) == found["n_predict"] == 24 and found["stop"] == "length"
          and found["seed"] == 7 and found["n_prompt"] > 10, found)


def test_timings():
    timings = result("-p", ONCE, "-n", "32", "--temp", "0", "--draft", "4")["timings"]
    mean = 1 + timings["draft_n_accepted"] / timings["n_verify"]
    check("positions add up to the mean length", math.isclose(1 + sum(timings["acc_per_pos"]), mean, rel_tol=1e-9),
          timings)
    check("rates follow from times", math.isclose(timings["predicted_per_second"],
                                                  32e3 / timings["predicted_ms"], rel_tol=1e-9), timings)
    line = outrider("run", "-p", ONCE, "-n", "32", "--temp", "0", "--draft", "4", "-v").stderr
    check("the acceptance line", f"({timings['draft_n_accepted']:5d} accepted / {timings['draft_n']:5d} generated), "
          f"mean acceptance length = {mean:5.2f}" in line, line)


def test_same_text():
    plain = result("-p", ONCE, "-n", "32", "--temp", "0", "--spec-type", "none")
    check("--spec-type none drafts nothing", plain["timings"]["draft_n"] == 0, plain["timings"])
    for k in ("0", "1", "5", "16", "auto"):
        found = result("-p", ONCE, "-n", "32", "--temp", "0", "--spec-draft-n-max", k)
        check(f"greedy text does not depend on K={k}", found["tokens"] == plain["tokens"], found["text"])
    for kind in ("draft", "ngram", "self", "draft,self,ngram"):
        found = result("-p", ONCE, "-n", "32", "--temp", "0", "--spec-type", kind)
        check(f"nor on who proposes: {kind}", found["tokens"] == plain["tokens"] and found["timings"]["draft_n"] > 0,
              found["timings"])
    coupled = [result("-p", ONCE, "-n", "32", "-s", "3", "--temp", "1", "--spec-accept", "coupled", "--draft-max",
                      k)["tokens"] for k in ("0", "3", "8")]
    check("coupled text does not depend on K", coupled[0] == coupled[1] == coupled[2])
    other = [result("-p", "x", "-n", "1")["seed"] for _ in range(2)]
    check("seeds differ unless given", other[0] != other[1], other)


def test_options():
    few = ["-p", ONCE, "-n", "6"]
    same = [result(*few, "-s", "3", *more)["tokens"] for more in
            (["--num-draft-tokens", "2"], ["--draft=2"], ["--draft-max", "2"], ["--spec-draft-n-max", "2"])]
    check("names known elsewhere", all(s == same[0] for s in same))
    pair = ["-m", f"{TALE}/verifier", "-md", f"{TALE}/draft"]
    check("a pair by name is the shipped one", result(*few, "--temp", "0", *pair)["tokens"]
          == result(*few, "--temp", "0")["tokens"])
    alone = result(*few, "--temp", "0", "-m", f"{TALE}/verifier", "--draft", "4")
    check("a model without a draft writes the same", alone["tokens"] == result(*few, "--temp", "0")["tokens"], alone)
    first = alone["tokens"][0]
    for bias in (f"{first}=-inf", f"{first}-100"):
        found = result(*few, "--temp", "0", "--logit-bias", bias)
        check(f"--logit-bias {bias[len(str(first)):]} forbids", found["tokens"][0] != first, found)
    found = result(*few, "--temp", "0", "--logit-bias", "77+100", "--logit-bias", f"{first}=-inf")
    check("--logit-bias may be repeated", found["tokens"] == [77] * 6, found)
    stop = alone["text"].split()[1]
    found = result("-p", ONCE, "-n", "6", "--temp", "0", "--stop", "no such words", "--stop", stop)
    check("--stop ends the text in front of it", found["stop"] == "stop"
          and alone["text"].startswith(found["text"]) and stop not in found["text"], found)
    said = outrider("run", *few, "-c", "1K", "-v").stderr
    check("sizes take a K", "context 1024 tokens" in said, said)


def test_environment():
    few = ["-p", ONCE, "--temp", "0"]
    check("options have twins", result(*few, env={"OUTRIDER_PREDICT": "3"})["n_predict"] == 3)
    check("the option wins", result(*few, "-n", "4", env={"OUTRIDER_PREDICT": "3"})["n_predict"] == 4)
    found = outrider("run", *few, env={"OUTRIDER_JSON": "1", "OUTRIDER_PREDICT": "2"})
    check("flags have twins", json.loads(found.stdout)["n_predict"] == 2, found.stdout)
    refused("a bad twin is named", 2, "run", *few, env={"OUTRIDER_TOP_K": "many"}, says=["OUTRIDER_TOP_K", "many"])
    found = outrider("run", *few, "-n", "2", env={"OUTRIDER_TMEP": "1", "OUTRIDER_TOP_K": ""})
    check("a slip in a twin's name is told, and an empty twin is none", found.returncode == 0
          and "OUTRIDER_TMEP" in found.stderr, found.stderr)
    refused("a model may come from there", 3, "run", *few, env={"OUTRIDER_MODEL": "no/such"}, says=["no/such"])


def test_refusals():
    refused("an unknown option has a neighbour", 2, "run", "--tmep", "1", says=["--tmep", "--temp"])
    refused("an option of another command", 2, "bench", "--stop", "x", says=["--stop is an option of run, chat"])
    refused("a short one too", 2, "chat", "-p", "x", says=["-p is an option of run, bench", "outrider chat --help"])
    refused("an option of another program", 2, "run", "-ngl", "99", says=["-ngl", "outrider run --help"])
    refused("a command that was mistyped", 2, "rnu", says=["did you mean outrider run?"])
    refused("help on what is none", 2, "help", "nonsense", says=["nonsense", "chat"])
    refused("a name that was begun", 2, "chat", "--system", "x", says=["--system-prompt"])
    refused("an unknown command", 2, "nonsense", says=["nonsense", "run, chat, bench"])
    refused("an option in place of a command", 2, "-p", "x", says=["outrider run -p"])
    refused("a text in place of a model", 3, "run", "-p", "x", "-m", "README.md", says=["README.md", "GGUF", "folder"])
    refused("a place that is not there", 1, "convert", "-m", f"{TALE}/draft", "-o", "/nowhere/x.gguf",
            says=["/nowhere/x.gguf: No such file"])
    refused("a number out of range", 2, "run", "--top-p", "1.5", says=["--top-p", "0 to 1"])
    refused("no number", 2, "run", "-n", "lots", says=["-n", "lots", "-1 to"])
    refused("no such choice", 2, "run", "--spec-accept", "never", says=["rejection|block|coupled"])
    refused("no such drafter", 2, "run", "--spec-type", "draft,horse", says=["horse", "auto|draft"])
    refused("all and some", 2, "run", "-p", "x", "--spec-type", "auto,draft", says=["auto", "alone"])
    refused("a value is missing", 2, "run", "-p", says=["-p"])
    refused("an argument too many", 2, "run", "hello", says=["hello"])
    refused("a bias that is none", 2, "run", "-p", "x", "--logit-bias", "5", says=["5", "ID=BIAS"])
    refused("more threads than can be", 2, "run", "-p", "x", "-t", "257", says=["-t", "0 to 256"])
    refused("no prompt", 2, "run", says=["prompt"])
    refused("a draft that is not named", 2, "run", "-p", "x", "-m", f"{TALE}/verifier", "--spec-type", "draft",
            says=["-md"])
    refused("no model", 3, "run", "-p", "x", "-m", "no/such/folder", says=["no/such/folder"])
    refused("no file", 1, "run", "-f", "no/such/file", says=["no/such/file"])
    refused("no text to score", 2, "eval", says=["-f"])
    refused("a device that is not there", 4, "run", "-p", "x", "--device", "cuda:99", says=["cuda"])
    refused("a name cannot drive the terminal", 3, "run", "-p", "x", "-m", "\033[31m", says=["?[31m"])
    long = "word " * 3000
    refused("a prompt longer than the context", 2, "run", "-p", long, says=["tokens", "2048"])
    refused("also when told to hold less", 2, "run", "-p", "word " * 300, "-c", "256", says=["256", "-c"])
    refused("a context longer than the model's", 2, "run", "-p", "x", "-c", "16M", says=["16777216", "2048"])
    check("a shorter one is taken whole", result("-n", "1", "-p", "word " * 100)["n_prompt"] > 100)


def test_not_numbers():
    """Weights that are not numbers end the text with an error at any temperature, they do not become text."""
    with tempfile.TemporaryDirectory() as folder:
        for name in os.listdir(f"{TALE}/draft"):
            os.symlink(os.path.abspath(f"{TALE}/draft/{name}"), f"{folder}/{name}")
        data = bytearray(open(f"{folder}/model.safetensors", "rb").read())
        header = int.from_bytes(data[:8], "little")
        norm = json.loads(data[8 : 8 + header])["model.norm.weight"]["data_offsets"]
        data[8 + header + norm[0] : 8 + header + norm[1]] = b"\xC0\x7F" * ((norm[1] - norm[0]) // 2)
        os.remove(f"{folder}/model.safetensors")
        open(f"{folder}/model.safetensors", "wb").write(data)
        for temp in "0", "1":
            refused(f"NaN at temperature {temp}", 1, "run", "-m", folder, "-p", "x", "-n", "4", "--temp", temp,
                    says=["no token is possible"])


def test_prompts():
    greedy = ["-n", "8", "--temp", "0"]
    whole = result("-p", ONCE, *greedy)["tokens"]
    head, tail = ONCE[:20], ONCE[20:]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/prompt"
        open(path, "w").write(ONCE)
        check("-f reads a file", result("-f", path, *greedy)["tokens"] == whole)
        open(path, "w").write(head)
        check("a file stands in front of -p", result("-f", path, "-p", tail, *greedy)["tokens"] == whole)
        open(path, "wb").write(b"\xff\xfe caf\xe9 \x00 \xf0\x9f\x98 and then")
        found = outrider("run", "--json", "-f", path, *greedy, text=False)
        check("any bytes make a prompt", found.returncode == 0
              and json.loads(found.stdout.decode("utf-8"))["n_predict"] == 8, found.stderr)
    check("a pipe is a prompt", result(*greedy, stdin=ONCE)["tokens"] == whole)
    check("-p - reads it too", result("-p", "-", *greedy, stdin=ONCE)["tokens"] == whole)
    check("-f - reads it too", result("-f", "-", *greedy, stdin=ONCE)["tokens"] == whole)
    check("a pipe stands in front of -p", result("-p", tail, *greedy, stdin=head)["tokens"] == whole)
    refused("an empty pipe is none", 2, "run", stdin="", says=["prompt"])
    check("an empty text is one", result("-p", "", *greedy)["n_prompt"] == 1)


def test_output_errors():
    with open("/dev/full", "w") as full:
        done = subprocess.run([OUTRIDER, "run", "-p", ONCE, "-n", "8"], stdout=full, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, text=True, env=PLAIN_ENV, timeout=60)
        lines = done.stderr.strip().split("\n")
        check("a full disk is told", done.returncode == 1 and len(lines) == 1 and "standard output" in lines[0],
              done.stderr)
        done = subprocess.run([OUTRIDER, "--help"], stdout=full, stderr=subprocess.PIPE, env=PLAIN_ENV, timeout=60)
        check("even for help", done.returncode == 1, done.returncode)
    child = subprocess.Popen([OUTRIDER, "run", "-p", ONCE, "-n", "400", "--ignore-eos"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=PLAIN_ENV)
    child.stdout.read(1)
    child.stdout.close()
    said = child.stderr.read().decode()
    check("a closed pipe ends quietly", child.wait(60) == -signal.SIGPIPE and "error" not in said,
          (child.returncode, said))


def interrupted(wait_for_text):
    child = subprocess.Popen([OUTRIDER, "run", "-p", ONCE, "--ignore-eos"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=PLAIN_ENV,
                             # whoever runs the tests in the background has SIGINT ignored, and children inherit it
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    first = child.stdout.read(16) if wait_for_text else time.sleep(0.05) or b""
    child.send_signal(signal.SIGINT)
    start = time.monotonic()
    rest, said = child.communicate(timeout=60)
    return child.returncode, first + rest, said.decode(), time.monotonic() - start


def test_interrupt():
    code, text, said, took = interrupted(True)
    check("Ctrl-C keeps what was written", code == 130 and text.decode("utf-8") and "stopped by interrupt" in said,
          (code, said))
    check("and is quick", took < 2, took)
    code, text, said, took = interrupted(False)
    # before there is text to keep the signal itself ends the program, which a shell calls 130 too
    check("Ctrl-C while loading", code in (130, -signal.SIGINT) and "error" not in said, (code, said))


def test_bench():
    small = ["bench", "-p", "16", "-n", "8", "-r", "2", "--prompts", "tests/data/prompts.jsonl"]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/few.jsonl"
        with open("tests/data/prompts.jsonl") as lines:
            open(path, "w").writelines(next(lines) for _ in range(2))
        small[-1] = path
        rows = json.loads(outrider(*small, "-o", "json", "--spec-draft-n-max", "auto,1-3+2").stdout)
        check("a row for each test", [(r["n_prompt"], r["n_gen"], r.get("n_draft_max")) for r in rows]
              == [(16, 0, None), (0, 8, None), (0, 8, -1), (0, 8, 1), (0, 8, 3)], rows)
        names = ("model_filename", "model_type", "model_size", "model_n_params", "test_time", "avg_ns", "stddev_ns",
                 "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
        check("under the names of llama-bench", all(n in r for r in rows for n in names))
        check("samples make the mean", all(len(r["samples_ts"]) == 2 and math.isclose(
            sum(r["samples_ts"]) / 2, r["avg_ts"], rel_tol=1e-9) for r in rows))
        spec = rows[2:]
        check("speculative rows say what they are worth", all(r["speedup"] > 0 and r["identical"] is True for r in spec),
              spec)
        check("acceptance by position sums to the mean length", all(math.isclose(1 + sum(r["acc_per_pos"]), r["mean_length"])
              and len(r["acc_per_pos"]) + 1 == len(r["runs"]) for r in spec), spec)
        costs = {c["rows"]: c["us"] for c in rows[1]["verify_cost"]}
        check("the cost model is K steps and a pass of K + 1 rows", math.isclose(spec[2]["model_round_ms"] * 1e3,
              3 * rows[1]["draft_step_us"] + costs[4], rel_tol=1e-6), (spec[2], rows[1]))
        check("proposals are counted", spec[2]["draft_n"] > 0 and math.isclose(
            spec[2]["mean_length"], 1 + spec[2]["draft_n_accepted"] / spec[2]["n_verify"]), spec[2])
        ratio = sorted(a / b for a, b in zip(spec[2]["samples_ts"], rows[1]["samples_ts"]))
        check("the speedup is the median of the ratios", math.isclose(spec[2]["speedup"], sum(ratio) / 2, rel_tol=1e-9))
        check("the device is measured", rows[1]["read_gb_per_s"] > 0 and math.isclose(
            rows[1]["bandwidth_share"] * rows[1]["read_gb_per_s"], rows[1]["streamed_gb_per_s"], rel_tol=1e-6)
              and [c["rows"] for c in rows[1]["verify_cost"]] == [1, 2, 4, 8, 16], rows[1])
        tiny = small[:5] + ["-r", "1", "--prompts", path, "--spec-draft-n-max", "2"]
        lines = outrider(*tiny, "-o", "jsonl").stdout.strip().split("\n")
        check("-o jsonl", [json.loads(line)["n_gen"] for line in lines] == [0, 8, 8], lines)
        table = list(csv.DictReader(io.StringIO(outrider(*tiny, "-o", "csv").stdout)))
        check("-o csv", [r["n_draft_max"] for r in table] == ["", "", "2"] and table[2]["identical"] == "true", table)
        done = outrider(*tiny, "--progress")
        check("-o md", "| tg8 K=2" in " ".join(done.stdout.split()) and "verify cost" in done.stdout, done.stdout)
        cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
                 for part in done.stdout.split("\n\n")]
        check("its tables are tables", [len(t) for t in cells] == [5, 3, 3, 0] and all(len(line) == len(t[0]) and all(line)
              for t in cells for line in t), cells)
        check("--progress goes to standard error", "tg8: repetition 1 of 1" in done.stderr, done.stderr)
        sweep = tiny[:-2] + ["-p", "0", "-d", "0,64", "-np", "1,2", "--temp", "0.8", "-s", "3", "--spec-accept", "all",
                             "--spec-draft-n-max", "auto,2", "-o", "json"]
        rows = json.loads(outrider(*sweep).stdout)
        check("a set for each depth, batch and rule", [(r["n_depth"], r["n_batch"], r.get("accept"), r.get("n_draft_max"))
              for r in rows] == [(d, n, a if k else None, k) for d in (0, 64) for n in (1, 2)
                                 for a in ("rejection", "block", "coupled") for k in (None, -1, 2)], rows)
        spec = [r for r in rows if "accept" in r]
        check("the coupled rule alone promises the plain tokens",
              all(r["identical"] is (True if r["accept"] == "coupled" else None) for r in spec), spec)
        check("runs are counted", all(sum(r["runs"]) == r["n_verify"] and sum(i * n for i, n in enumerate(r["runs"]))
                                      == r["draft_n_accepted"] for r in spec), spec)
        check("rounds stand beside the meters", all(r["round_ms"] > 0 and (r["n_draft_max"] < 0 or r["model_round_ms"] > 0)
                                                    for r in spec), spec)
        check("the automatic K is judged by the fixed ones", all((r["n_draft_max"] < 0) == (r["over_best_fixed"] is not None)
              and (r["n_draft_max"] > 0 or r["best_fixed_k"] in (0, 2)) for r in spec), spec)
        one_prompt = f"{folder}/one.jsonl"
        open(one_prompt, "w").write('{"prompt": "Once upon a time"}\n')
        one = json.loads(outrider("bench", "-p", "0", "-n", "8", "-r", "1", "--prompts", one_prompt,
                                  "--spec-draft-n-max", "auto,1,4", "-o", "json").stdout)
        rate = {r.get("n_draft_max", 0): r["avg_ts"] for r in one}
        best = max((r for r in one if r.get("n_draft_max") != -1), key=lambda r: r["avg_ts"])
        check("hindsight: the automatic K over plain and over the best fixed", all(math.isclose(a, b, rel_tol=1e-6) for a, b in (
              (one[1]["over_plain"], rate[-1] / rate[0]), (one[1]["over_best_fixed"], rate[-1] / best["avg_ts"])))
              and one[1]["best_fixed_k"] == best.get("n_draft_max", 0), one)
        drawn = json.loads(outrider(*tiny[:-2], "-p", "0", "-n", "64", "--spec-draft-n-max", "4", "--spec-synth-accept", "1",
                                    "-o", "json").stdout)[1]
        check("synthetic acceptance accepts what it is told to", drawn["acceptance"] == 1 and drawn["synthetic_accept"] == 1
              and drawn["identical"] is None, drawn)
        done = outrider(*tiny[:-2], "--spec-draft-n-max", "2", "--spec-synth-accept", "0")
        check("and says that the text is another", "acceptance was drawn" in done.stdout and "0.0%" in done.stdout, done.stdout)
        swept = [*tiny[:-2], "-p", "0", "--self-sweep", "--spec-draft-n-max", "1,4"]
        rows = json.loads(outrider(*swept, "-o", "json").stdout)
        spec = rows[1:]
        check("a sweep tries each number of own layers", [(r["self_layers"], r["n_draft_max"]) for r in spec]
              == [(n, k) for n in range(1, 8) for k in (1, 4)], [r["self_layers"] for r in spec])
        check("with the plain tokens", all(r["identical"] is True and r["draft_n"] > 0 for r in spec), spec)
        check("more layers cost more", 0 < spec[0]["step_cost"] < spec[-1]["step_cost"] < 1.5, spec)
        best, fastest = [r for r in spec if r["best_self_layers"]], max(spec, key=lambda r: r["speedup"])
        check("the fastest is marked, if it is faster than plain", best == [fastest] * (fastest["speedup"] > 1), best)
        done = outrider(*swept).stdout
        check("its table has a line for each", all(f"| tg8 N={n} K=" in " ".join(done.split()) for n in range(1, 8))
              and ("fastest here: --self-layers" in done) == (" <- fastest here" in done) != ("plain decoding is" in done), done)
        done = outrider(*swept, "-n", "40", "--spec-synth-accept", "1").stdout
        check("where proposals stay few layers are best", re.search(r"N=[1-4] K=. .*<- fastest here\n", done)
              and re.search("fastest here: --self-layers [1-4]\n", done), done)
        refused("a sweep beside a draft", 2, *swept, "--spec-type", "draft", says=["--self-sweep"])
        open(path, "w").write('{"prompt": "a"}\n{"text": "b"}\n')
        refused("a line without a prompt", 1, "bench", "--prompts", path, says=["line 2"])
    refused("no list", 2, "bench", "-n", "1,x", says=["--n-gen"])
    refused("too many to propose", 2, "bench", "--spec-draft-n-max", "99", says=["16"])
    refused("no rule", 2, "bench", "--spec-accept", "block,best", says=["--spec-accept"])
    refused("a batch of none", 2, "bench", "-np", "0", says=["--parallel"])
    refused("more than the context holds", 2, "bench", "-p", "4096", says=["4096", "2048"])


def test_batch():
    """Many prompts at once: each writes what it writes alone, in the order of the file."""
    lines = [{"prompt": ONCE, "n_predict": 9, "temperature": 0, "id": ["a", 1]},
             {"prompt": ONCE + " he", "seed": 5, "temp": 0.9, "stop": ["the"], "spec_draft_n_max": 0},
             {"prompt": "My father", "n_predict": 3, "temperature": 0, "logit_bias": ["5=-inf"]},
             {"prompt": ONCE, "temperature": 0, "top_k": None}]
    alone = [result("-p", ONCE, "-n", "9", "--temp", "0"),
             result("-p", ONCE + " he", "-s", "5", "--temp", "0.9", "--stop", "the", "-n", "20"),
             result("-p", "My father", "-n", "3", "--temp", "0"), result("-p", ONCE, "-n", "20", "--temp", "0")]
    given = "\n\n".join(map(json.dumps, lines))
    batch = ["run", "--batch", "-", "-n", "20", "-np"]
    for more in (["3"], ["1"], ["4", "-c", "64", "--page-size", "16", "--cache-tokens", "64"]):
        done = outrider(*batch, *more, stdin=given)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        check(f"a batch writes what each writes alone, -np {' '.join(more)}", done.returncode == 0
              and [f["tokens"] for f in found] == [a["tokens"] for a in alone], done)
        check("with its own index, id and reason", [f["index"] for f in found] == [0, 1, 2, 3] and found[0]["id"]
              == ["a", 1] and "id" not in found[1] and found[1]["stop"] == alone[1]["stop"], found)
    check("the same words are read once", found[3]["n_cached"] > 0, found[3])
    done = outrider(*batch, "4", "--unordered", stdin=given)
    found = [json.loads(line)["index"] for line in done.stdout.splitlines()]
    check("--unordered writes the shortest first", found[0] == 2 and sorted(found) == [0, 1, 2, 3], found)
    done = outrider(*batch, "2", "-c", "64", stdin=given + "\n" + json.dumps({"prompt": "word " * 80, "id": 7}))
    last = json.loads(done.stdout.splitlines()[-1])
    check("a prompt too long fails alone", done.returncode == 1 and len(done.stdout.splitlines()) == 5
          and "64" in last["error"] and last["id"] == 7, done)
    for name, line, says in (("an unknown field", '{"prompt": "x", "promt": 1}', ["line 1", "promt", "prompt"]),
                             ("a value out of range", '{"prompt": "x", "top_p": 2}', ["top_p", "0 to 1"]),
                             ("a text that would be cut", '{"prompt": "x", "stop": "a\\u0000b"}', ["line 1: stop"]),
                             ("a line without a prompt", '{"n_predict": 1}', ["line 1", "prompt"]),
                             ("a field of the engine", '{"prompt": "x", "model": "y"}', ["model", "all prompts"])):
        refused(name, 2, "run", "--batch", "-", stdin=line, says=says)
    refused("a line that is no JSON", 1, "run", "--batch", "-", stdin='{"prompt"', says=["line 1"])
    few, many = (batch_memory(20 * n) for n in (1, 1000))
    check("a short line takes little memory", SANITIZED or many - few < 32 << 20, (few, many))


def batch_memory(n):
    """The greatest of a batch of n short lines, in bytes."""
    with tempfile.TemporaryFile() as lines:
        lines.write(b'{"prompt": "", "n_predict": 0}\n' * n)
        lines.seek(0)
        child = subprocess.Popen([OUTRIDER, "run", "--batch", "-"], stdin=lines, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env=PLAIN_ENV)
        _, child.returncode, usage = os.wait4(child.pid, 0)
    check(f"a batch of {n} lines", child.returncode == 0, child.returncode)
    return usage.ru_maxrss << 10


def test_check():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/few.jsonl"
        with open("tests/data/prompts.jsonl") as lines:
            open(path, "w").writelines(next(lines) for _ in range(2))
        few = ["check", "--prompts", path, "-n", "8"]
        done = outrider(*few)
        lines = done.stdout.strip().split("\n")
        check("check proves the shipped pair", done.returncode == 0 and lines[-1].startswith("yes: ") and not done.stderr
              and [" ok " in line for line in lines] == [False] + [True] * 6 + [False], (done.stdout, done.stderr))
        alone = ["-m", f"{TALE}/verifier", "-c", "128", "--page-size", "16"]
        done = outrider(*few, *alone)
        lines = done.stdout.strip().split("\n")
        check("where nothing was proposed nothing is proved", done.returncode == 0 and " unproved " in done.stdout
              and lines[-1].startswith("nothing wrong, but "), (done.stdout, done.stderr))
        done = outrider(*few[:-1], "24", "--json", *alone)
        found = json.loads(done.stdout)
        rows = {r["name"]: r for r in found["checks"]}
        check("and n-grams alone", done.returncode == 0 and found["ok"] and not found["has_draft"] and len(rows) == 6
              and all(r["ok"] and r["proved"] and r["draft_n"] > 0 for r in found["checks"]), found)
        own = rows["draft = verifier"]
        check("as its own draft the verifier accepts all", own["draft_n_accepted"] == own["draft_n"], own)
    refused("a context too small to check", 2, "check", "-c", "64", says=["64", "112"])


def test_eval_and_inspect():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/text"
        open(path, "w").write(open("tests/data/held-out.txt").read()[:500])
        found = json.loads(outrider("eval", "-f", path, "-c", "32", "--json").stdout)
        check("perplexity is e to the nats", math.isclose(found["perplexity"], math.exp(found["nats_per_token"])),
              found)
        bits = found["nats_per_token"] * found["n_tokens"] / math.log(2) / found["n_bytes"]
        check("bits are per byte", math.isclose(found["bits_per_byte"], bits) and 0.3 < bits < 3, found)
        longer = json.loads(outrider("eval", "-f", path, "--json").stdout)
        check("a longer context knows more", longer["nats_per_token"] < found["nats_per_token"]
              and longer["n_tokens"] == found["n_tokens"], (longer, found))
        said = outrider("eval", "-f", path, "-c", "32").stdout
        check("the same in words", f"{found['perplexity']:.4f}" in said, said)
    pair = ["inspect", "-m", f"{TALE}/verifier", "-md", f"{TALE}/draft", "-c", "1024"]
    found = json.loads(outrider(*pair, "--json").stdout)
    check("what a model is", found["verifier"]["num_hidden_layers"] == 8 and found["verifier"]["vocab_size"] == 8192
          and found["draft"]["hidden_size"] == 128, found)
    per_token = found["verifier"]["cache_bytes_per_token"] + found["draft"]["cache_bytes_per_token"]
    check("what a pair needs", found["need_cache_bytes"] == 1024 * per_token
          and found["need_weight_bytes"] == sum(found[m]["weight_bytes"] for m in ("verifier", "draft")), found)
    twice = json.loads(outrider(*pair, "--json", "-ctk", "f32").stdout)
    check("a wider cache needs twice as much", twice["need_cache_bytes"] == 2 * found["need_cache_bytes"], twice)
    small = json.loads(outrider(*pair, "--json", "-ctk", "q8", "-ctv", "q8").stdout)
    check("8 bits and a scale for each 32 need 17/32", small["need_cache_bytes"] * 32 == found["need_cache_bytes"] * 17, small)
    mixed = json.loads(outrider(*pair, "--json", "-ctv", "q8").stdout)
    check("values alone in 8 bits need the mean", mixed["need_cache_bytes"] * 64 == found["need_cache_bytes"] * 49, mixed)
    refused("a format of values that is none", 2, *pair, "-ctv", "q9", says=["q9"])
    check("the same in words", "8 layers" in outrider(*pair).stdout)
    refused("no model to inspect", 3, "inspect", "-m", "no/such", says=["no/such"])


def test_events():
    done = outrider("run", "-p", ONCE, "-n", "24", "--temp", "0", "--jsonl", "--logprobs", "2")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    plain = outrider("run", "-p", ONCE, "-n", "24", "--temp", "0").stdout
    rounds = [e for e in events if e["event"] == "tokens"]
    check("--jsonl streams the text", "".join(e["text"] for e in rounds) == plain, events[:2])
    check("with who wrote each token", all(len(e["tokens"]) == len(e["sources"]) == len(e["logprobs"])
          and e["sources"][-1] == "verifier" for e in rounds) and any("draft" in e["sources"] for e in rounds), rounds)
    check("and ends with the numbers", events[-1]["event"] == "end" and events[-1]["n_predict"] == 24, events[-1])
    tops = [p["top"] for e in rounds for p in e["logprobs"]]
    check("--logprobs gives the likeliest", all(len(t) == 2 and t[0]["logprob"] >= t[1]["logprob"] for t in tops), tops[:1])
    refused("--logprobs alone", 2, "run", "-p", "x", "--logprobs", "2", says=["--json"])
    prefixed = result("-n", "4", "--temp", "0", "--in-prefix", "Once upon", "-p", " time", stdin=" a")
    check("--in-prefix stands in front", prefixed["text"] == result("-n", "4", "--temp", "0", "-p", "Once upon a time")["text"])


def test_held_back():
    child = subprocess.Popen([OUTRIDER, "run", "-p", ONCE, "--temp", "0", "--ignore-eos", "-n", "1500", "--stop",
                              outrider("run", "-p", ONCE, "--temp", "0", "-n", "300", "--ignore-eos").stdout + "NOT THIS"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=PLAIN_ENV,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    time.sleep(0.4)
    child.send_signal(signal.SIGINT)
    text, said = child.communicate(timeout=60)
    good = child.returncode == 130 and text or child.returncode in (-signal.SIGINT, 0)  # too early, or too late
    check("Ctrl-C keeps what a stop string held back", good, (child.returncode, text, said))


def test_config_file():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/config"
        open(path, "w").write("# mine\ntemp = 0.25\ntop-k = 3\n[chat]\ntop-p = 0.5\n")
        shown = outrider("config", "--config", path, "--top-k", "9", env={"OUTRIDER_TEMP": "0.75"}).stdout
        check("option, environment, file, model", re.search(r"^top-k = 9 +# command line$", shown, re.M)
              and re.search(r"^temp = 0.75 +# OUTRIDER_TEMP$", shown, re.M), shown)
        shown = outrider("config", "chat", "--config", path).stdout
        check("a section is of one command", re.search(rf"^top-p = 0.5 +# {path}, line 5$", shown, re.M)
              and re.search(rf"^temp = 0.25 +# {path}, line 2$", shown, re.M), shown)
        for text, says in (("tmep = 1", "did you mean temp"), ("temp = hot", "line 1: temp"), ("temp", "NAME = VALUE"),
                           ("[tale]", "no command"), ("help = on", "not for")):
            open(path, "w").write(text + "\n")
            refused(f"a bad line: {text}", 2, "run", "-p", "x", "--config", path, says=[says, path])
        refused("a file that is not there", 1, "run", "-p", "x", "--config", f"{folder}/none", says=["none"])


def kernel_says(pid):
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()


def test_sandbox():
    if SANITIZED:
        return  # which needs more itself
    words = ("run", "-p", ONCE, "-n", "48", "--seed", "5")
    inside, outside = (outrider(*words, "--sandbox", s).stdout for s in ("on", "off"))
    check("the sandbox changes no text", inside and inside == outside, (inside, outside))
    with tempfile.TemporaryDirectory() as folder:
        for command, level in ((["run", "-p", ONCE, "-n", "100000", "-c", "2048", "--ignore-eos"], "computing"),
                               (["chat"], "a conversation"), (["check"], "a proof"),
                               (["convert", "-o", f"{folder}/x.gguf", "--type", "q4_k", "--sandbox", "on"], "a conversion")):
            # run reads what is piped in to its end, chat waits for more of it
            stdin = subprocess.PIPE if command == ["chat"] else subprocess.DEVNULL
            child = subprocess.Popen([OUTRIDER, *command], stdin=stdin, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, env=PLAIN_ENV)
            said, end = ("0", "0"), time.time() + 20
            while said != ("1", "2") and time.time() < end and child.poll() is None:
                time.sleep(0.02)
                said = kernel_says(child.pid)
            check(f"the kernel holds {level}", said == ("1", "2"), said)
            child.kill()
            child.communicate()


for test in (test_about, test_sandbox, test_events, test_held_back, test_config_file, test_streams, test_timings, test_same_text, test_options, test_environment, test_refusals,
             test_not_numbers, test_prompts, test_output_errors, test_interrupt, test_batch, test_bench, test_check, test_eval_and_inspect):
    test()
finish()
