"""The README's picture of a run: python3 tools/picture.py >tools/run.svg

Runs `outrider run --jsonl` with the shipped pair and draws its text, each token in the colour of who wrote it."""
import json
import os
import subprocess
import sys

from svg import SOURCES, Drawing

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
PROMPT = "Once upon a time there was a young prince who lived in a castle by the sea, and"
COLUMNS, STEP, CHARACTER = 92, 21, 8.43  # a line's characters, its height, a character's width


def run():
    command = [OUTRIDER, "run", "-p", PROMPT, "-n", "120", "--temp", "0", "--spec-draft-n-max", "4", "--jsonl",
               "--logprobs", "1", "--config", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    pieces = [(PROMPT, "caller")]
    for event in events:
        if event["event"] == "tokens":
            pieces += [(p["text"], s) for p, s in zip(event["logprobs"], event["sources"])]
    return pieces, events[-1]


def wrap(pieces):
    """Lines of (text, colour), broken at spaces."""
    letters = [(c, who) for text, who in pieces for c in text]
    lines, line = [], []
    for letter in letters:
        if letter[0] == "\n":
            lines.append(line)
            line = []
            continue
        line.append(letter)
        if len(line) > COLUMNS:
            at = max(i for i, (c, _) in enumerate(line) if c == " ")
            lines.append(line[:at])
            line = line[at + 1:]
    return lines + [line]


def pieces_of(line):
    """(text, colour) for each run of letters of one writer."""
    out = []
    for c, who in line:
        if out and out[-1][1] == SOURCES[who]:
            out[-1] = (out[-1][0] + c, out[-1][1])
        else:
            out.append((c, SOURCES[who]))
    return out


def main():
    pieces, end = run()
    t = end["timings"]
    legend = [("prompt", "caller"), ("   the verifier's own", "verifier"),
              ("   proposed by the draft and accepted", "draft")]
    note = f"{end['n_predict']} tokens in {t['n_verify']} passes of the verifier"
    lines = wrap(pieces) + [[]] + wrap(legend + [(f"   {note}", "caller")])
    drawing = Drawing(COLUMNS * CHARACTER + 48, len(lines) * STEP + 40)
    for i, line in enumerate(lines):
        drawing.text(24, 34 + i * STEP, pieces_of(line))
    print(drawing)


if __name__ == "__main__":
    sys.exit(main())
