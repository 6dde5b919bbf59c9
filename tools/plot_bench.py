"""Draws what outrider bench measured, and one run as it went; SVG on standard output.

    build/outrider bench -np 1,4 --spec-draft-n-max auto,1-8 -o jsonl >bench.jsonl
    python3 tools/plot_bench.py bench.jsonl >speed.svg     speed-up against K, and against acceptance
    python3 tools/plot_bench.py --run >run.svg             a time line: draft, verify, accepted and rejected tokens
    python3 tools/plot_bench.py --run -- -p "The king" -n 64 --spec-type ngram

Several files are drawn together: those of several --spec-synth-accept become curves in the second panel. Behind
-- stand the options of outrider run. Needs nothing but Python.
"""
import argparse
import json
import os
import subprocess
import sys

from svg import AMBER, BLUE, CYAN, GREEN, GREY, LIGHT, RED, SOURCES, Drawing

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
COLORS = [GREEN, BLUE, AMBER, CYAN, RED, "#bc8cff", "#ff7b72", "#a5d6ff", LIGHT, GREY]


# ---- speed ----

def read(path):
    """Rows of -o json or jsonl."""
    with open(path) as file:
        text = file.read()
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if "speedup" in row]


def set_name(row):
    """What differs between curves."""
    parts = [f"B={row['n_batch']}"] if row["n_batch"] > 1 else []
    parts += [f"depth {row['n_depth']}"] if row["n_depth"] else []
    drawn = row["synthetic_accept"]
    return " ".join(parts + [row["accept"] if drawn is None else f"drawn at {drawn:g}"])


class Panel:
    """Axes from 0 to their ends in a place of the drawing."""

    def __init__(self, drawing, x, title, ends, ticks):
        self.d, self.x, self.y, self.w, self.h, self.ends = drawing, x, 40, 420, 300, ends
        drawing.text(x, 24, title)
        for value in ticks[0]:
            drawing.text(self.at(value, 0)[0], self.y + self.h + 18, f"{value:g}", GREY, text_anchor="middle")
        for value in ticks[1]:
            drawing.line([self.at(0, value), self.at(ends[0], value)], GREY, stroke_width=0.5,
                         stroke_dasharray="none" if value == 1 else "1 4")
            drawing.text(x - 8, self.at(0, value)[1] + 4, f"{value:g}x", GREY, text_anchor="end")

    def at(self, x, y):
        return self.x + self.w * x / self.ends[0], self.y + self.h * (1 - y / self.ends[1])

    def curve(self, points, color, name, joined=True):
        places = [self.at(x, y) for x, y, _ in points]
        if joined:
            self.d.line(places, color, stroke_width=1.5)
        for place, (_, y, label) in zip(places, points):
            self.d.dot(*place, color, f"{name} {label}: {y:.2f} times plain")


def grouped(rows, key):
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def steps(end, about):
    """Round values from 0 to end, some `about` of them."""
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 20, 50) if end / s <= about)
    return [i * step for i in range(int(end / step) + 1)]


def legend(drawing, x, names):
    for i, (name, color) in enumerate(names):
        drawing.text(x + 150 * (i % 3), 384 + 18 * (i // 3), [("■ ", color), (name, GREY)])


def draw_speed(rows):
    fixed = [r for r in rows if r["n_draft_max"] > 0]
    if not fixed:
        sys.exit("plot_bench.py: no row with a fixed K; bench with --spec-draft-n-max auto,1-8")
    top = max(1.2, 1.1 * max(r["speedup"] for r in rows))
    most = max(r["n_draft_max"] for r in fixed)
    by_set, by_k = grouped(rows, set_name), grouped(fixed, lambda r: r["n_draft_max"])
    d = Drawing(1040, 400 + 18 * ((max(len(by_set), len(by_k)) + 2) // 3), 12)
    left = Panel(d, 60, "times plain, by K; dashed: the automatic K", (most + 0.5, top), (range(1, most + 1), steps(top, 8)))
    names = []
    for (name, group), color in zip(sorted(by_set.items()), COLORS * 9):
        names.append((name, color))
        chosen = sorted((r for r in group if r["n_draft_max"] > 0), key=lambda r: r["n_draft_max"])
        left.curve([(r["n_draft_max"], r["speedup"], f"K={r['n_draft_max']}") for r in chosen], color, name)
        for r in (r for r in group if r["n_draft_max"] < 0):
            left.d.line([left.at(0, r["speedup"]), left.at(most + 0.5, r["speedup"])], color, stroke_dasharray="6 4")
    legend(d, 60, names)
    right = Panel(d, 580, "times plain, by the share of proposals accepted", (1, top), (steps(1, 4), steps(top, 8)))
    names = []
    for (k, group), color in zip(sorted(by_k.items()), COLORS * 9):
        names.append((f"K={k}", color))
        for joined in (True, False):  # what was drawn makes a curve, what texts gave is dots
            points = sorted((r["acceptance"], r["speedup"], set_name(r)) for r in group
                            if (r["synthetic_accept"] is not None) == joined)
            right.curve(points, color, f"K={k}", joined)
    legend(d, 580, names)
    return d


# ---- a run ----

def rounds_of(options):
    """Of each round that wrote: its draft and verify time, who wrote its tokens, how many were rejected."""
    given = options or ["-p", "Once upon a time there was a young prince who lived in a castle by the sea, and",
                        "-n", "64", "--temp", "0"]
    command = [OUTRIDER, "run", *given, "--jsonl", "--config", "/dev/null"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rounds, before = [], {"draft_n": 0, "draft_ms": 0, "verify_ms": 0, "predicted_ms": 0}
    for event in map(json.loads, done.stdout.splitlines()):
        if event["event"] != "tokens" or "so_far" not in event:
            continue
        now = event["so_far"]
        part = {name: now[name] - before[name] for name in before}
        kept = sum(source in ("draft", "ngram") for source in event["sources"])
        rounds.append((part, event["sources"], part["draft_n"] - kept))
        before = now
    return rounds


def draw_round(d, y, at, scale, part, sources, rejected):
    """Two bars of time, and above them a column of tokens."""
    draft, verify, whole = part["draft_ms"] * scale, part["verify_ms"] * scale, part["predicted_ms"] * scale
    d.rect(at, y, draft, 14, AMBER)
    d.rect(at + draft, y + 16, verify, 14, BLUE)
    d.rect(at + draft + verify, y + 16, max(0, whole - draft - verify), 14, GREY)
    side = max(2, min(8, whole - 2))
    for i, source in enumerate(sources):
        d.rect(at + 1, y - 12 - 10 * i, side, 8, SOURCES[source])
    for i in range(len(sources), len(sources) + rejected):
        d.rect(at + 1.5, y - 11.5 - 10 * i, side - 1, 7, "none", stroke=RED)
    return at + whole


def draw_run(rounds):
    """Lines of rounds, as many as fit the width at one scale."""
    if not rounds:
        sys.exit("plot_bench.py: the run wrote nothing")
    width, times = 1100, sorted(part["predicted_ms"] for part, _, _ in rounds)
    scale = 26 / times[len(times) // 2]  # pixels a millisecond
    tall = 10 * max(len(sources) + rejected for _, sources, rejected in rounds) + 62
    d = Drawing(width, 10_000, 12)
    at, y = 24, tall - 20
    for part, sources, rejected in rounds:
        if at > 24 and at + part["predicted_ms"] * scale > width - 24:
            at, y = 24, y + tall
        at = draw_round(d, y, at, scale, part, sources, rejected)
    d.height = y + 74
    d.line([(24, y + 46), (24 + scale, y + 46)], GREY, stroke_width=2)
    d.text(30 + scale, y + 50, "1 ms", GREY)
    tokens, total = sum(len(s) for _, s, _ in rounds), sum(p["predicted_ms"] for p, _, _ in rounds)
    words = [("■ draft ", AMBER), ("■ verify ", BLUE), ("■ the rest   ", GREY), ("tokens: ", GREY),
             ("■ draft's ", GREEN), ("■ n-grams' ", CYAN), ("■ the verifier's own ", LIGHT), ("□ rejected   ", RED),
             (f"{tokens} tokens, {len(rounds)} rounds, {total:.1f} ms", GREY)]
    d.text(110 + scale, y + 50, words)
    return d


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--run", action="store_true", help="draw one run; options of outrider run behind --")
    p.add_argument("files", nargs="*", help="of outrider bench -o json or jsonl")
    a = p.parse_args()
    if a.run:
        print(draw_run(rounds_of(a.files)))
    elif a.files:
        print(draw_speed([row for path in a.files for row in read(path)]))
    else:
        p.error("name a file of outrider bench -o jsonl, or --run")


if __name__ == "__main__":
    main()
