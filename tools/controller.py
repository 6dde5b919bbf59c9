"""Whether the automatic K keeps its promise on this machine: make controller, or python3 tools/controller.py

With the shipped draft, with a draft of random weights and with n-grams alone, at temperature 0 and 0.8, over the
40 prompts of tests/data: never below 0.98 of plain decoding, at least 0.95 of the fixed K that was best in
hindsight (plain among them). Plain, each fixed K and the automatic one answer a prompt in turn, every answer in a
session of its own; what counts is the median of the ratios of one prompt's answers. The last line is yes or no.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
VERIFIER, DRAFT = "weights/tale/verifier", "weights/tale/draft"
OF_PLAIN, OF_BEST = 0.98, 0.95


def measure(drafter, temperature, a):
    command = [OUTRIDER, "bench", "-m", VERIFIER, *drafter, "--prompts", a.prompts, "-p", "0", "-n", str(a.n),
               "-r", str(a.repetitions), "--seed", "3", "--temp", str(temperature), "--spec-accept", a.accept,
               "--clock", a.clock, "--spec-draft-n-max", "auto," + a.k, "-o", "json"]
    if a.threads:
        command += ["-t", str(a.threads)]
    rows = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return next(r for r in rows if r.get("n_draft_max") == -1)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--clock", default="cpu", help="cpu or wall")
    p.add_argument("--accept", default="block")
    p.add_argument("--prompts", default="tests/data/prompts.jsonl")
    p.add_argument("-k", default="1,2,3,5,8")
    p.add_argument("-n", type=int, default=128)
    p.add_argument("-r", "--repetitions", type=int, default=3)
    p.add_argument("-t", "--threads", type=int)
    a = p.parse_args()
    kept = True
    print("| drafter        | temp | automatic over plain | over the best fixed | which K | kept |\n"
          "| :------------- | ---: | -------------------: | ------------------: | ------: | :--- |")
    with tempfile.TemporaryDirectory() as random:
        subprocess.run([sys.executable, "tools/random_draft.py", DRAFT, random], check=True)
        drafters = [("shipped draft", ["-md", DRAFT]), ("random weights", ["-md", random]),
                    ("n-grams alone", ["--spec-type", "ngram"])]
        for name, drafter in drafters:
            for temperature in (0, 0.8):
                row = measure(drafter, temperature, a)
                plain, best = row["over_plain"], row["over_best_fixed"]
                good = plain >= OF_PLAIN and best >= OF_BEST
                kept &= good
                print(f"| {name:14} | {temperature:4} | {plain:20.3f} | {best:19.3f} | {row['best_fixed_k']:7} | "
                      f"{'yes' if good else 'no':4} |", flush=True)
    print("yes" if kept else "no")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
