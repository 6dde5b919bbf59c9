"""The README's picture of a run: python3 tools/picture.py >tools/run.svg

Runs `outrider run --jsonl` with the shipped pair and draws its text, each token in the colour of who wrote it."""
import html
import json
import os
import subprocess
import sys

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
PROMPT = "Once upon a time there was a young prince who lived in a castle by the sea, and"
COLORS = {"caller": "#8b949e", "verifier": "#e6edf3", "draft": "#3fb950", "ngram": "#39c5cf"}
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


def spans(line):
    out = ""
    for i, (c, who) in enumerate(line):
        if i == 0 or line[i - 1][1] != who:
            out += ("</tspan>" if i else "") + f'<tspan fill="{COLORS[who]}">'
        out += html.escape(c)
    return out + ("</tspan>" if line else "")


def main():
    pieces, end = run()
    t = end["timings"]
    legend = [("prompt", "caller"), ("   the verifier's own", "verifier"),
              ("   proposed by the draft and accepted", "draft")]
    note = f"{end['n_predict']} tokens in {t['n_verify']} passes of the verifier"
    lines = wrap(pieces) + [[]] + wrap(legend + [(f"   {note}", "caller")])
    width, height = round(COLUMNS * CHARACTER + 48), len(lines) * STEP + 40
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">')
    print(f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>')
    print('<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" '
          'xml:space="preserve">')
    for i, line in enumerate(lines):
        print(f'<text x="24" y="{34 + i * STEP}">{spans(line)}</text>')
    print("</g>\n</svg>")


if __name__ == "__main__":
    sys.exit(main())
