"""tools/plot_bench.py: its drawings are well-formed SVG, its points lie where the figures of the JSON are, and the time
line of a run has one mark a token."""
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

from checks import check, finish

OUTRIDER = os.environ.get("OUTRIDER", "build/outrider")
ENV = {k: v for k, v in os.environ.items() if not k.startswith("OUTRIDER")} | {"OUTRIDER": OUTRIDER}
SVG = "{http://www.w3.org/2000/svg}"
sys.path.insert(0, "tools")
from svg import AMBER, BLUE, SOURCES  # noqa: E402


def plot(*args):
    done = subprocess.run([sys.executable, "tools/plot_bench.py", *args], capture_output=True, text=True, timeout=60, env=ENV)
    assert done.returncode == 0, done.stderr
    return ET.fromstring(done.stdout)


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def text_of(element):
    return "".join(element.itertext())


class Axes:
    """The scale of a panel, from the labels of its ticks alone."""

    def __init__(self, svg, left, right):
        texts = [(text_of(t), *numbers(t, "x", "y")) for t in svg.iter(SVG + "text")]
        below = [(float(t), x) for t, x, y in texts if left <= x <= right and t.replace(".", "").isdigit()]
        beside = [(float(t[:-1]), y - 4) for t, x, y in texts if left - 30 <= x < left and t.endswith("x")]
        self.x, self.y = self.line(below), self.line(beside)

    @staticmethod
    def line(ticks):
        (a, at_a), (b, at_b) = min(ticks), max(ticks)
        return lambda place: a + (place - at_a) * (b - a) / (at_b - at_a)

    def read(self, place):
        return self.x(place[0]), self.y(place[1])


def near(points, wanted):
    """The same points, to the tenth of a pixel that the drawing has."""
    return len(points) == len(wanted) and all(abs(p[0] - w[0]) < 0.01 and abs(p[1] - w[1]) < 0.01
                                              for p, w in zip(sorted(points), sorted(wanted)))


def test_speed(folder):
    path = f"{folder}/prompt.jsonl"
    with open(path, "w") as f:
        f.write('{"prompt": "The old king looked at the sea, and"}\n')
    rows = []
    for n, more in enumerate(([], ["--spec-synth-accept", "0.9"], ["--spec-synth-accept", "0.4"])):
        out = f"{folder}/{n}.jsonl"
        done = subprocess.run([OUTRIDER, "bench", "--config", "/dev/null", "-p", "0", "-n", "24", "-r", "1", "--prompts",
                               path, "--spec-type", "draft", "--spec-draft-n-max", "auto,1,3", "-o", "jsonl", *more],
                              capture_output=True, text=True, timeout=120, env=ENV)
        assert done.returncode == 0, done.stderr
        open(out, "w").write(done.stdout)
        rows += [json.loads(line) for line in done.stdout.splitlines()]
    svg = plot(*(f"{folder}/{n}.jsonl" for n in range(3)))
    fixed = [r for r in rows if r.get("n_draft_max", 0) > 0]
    dots = [numbers(c, "cx", "cy") for c in svg.iter(SVG + "circle")]
    left, right = Axes(svg, 60, 500), Axes(svg, 580, 1020)
    found = [left.read(p) for p in dots if p[0] < 540]
    check("a dot for each fixed K, at its speed-up", near(found, [(r["n_draft_max"], r["speedup"]) for r in fixed]), found)
    found = [right.read(p) for p in dots if p[0] > 540]
    check("and one at its acceptance", near(found, [(r["acceptance"], r["speedup"]) for r in fixed]), found)
    dashed = [left.y(float(line.get("points").split(",")[-1])) for line in svg.iter(SVG + "polyline")
              if line.get("stroke-dasharray") == "6 4"]
    wanted = [r["speedup"] for r in rows if r.get("n_draft_max") == -1]
    check("a dashed line for each automatic K", near([(0, y) for y in dashed], [(0, y) for y in wanted]), (dashed, wanted))
    whole = f"{folder}/all.json"
    json.dump(rows, open(whole, "w"))
    check("a JSON list is read like lines", len(list(plot(whole).iter(SVG + "circle"))) == len(dots))
    done = subprocess.run([sys.executable, "tools/plot_bench.py", path], capture_output=True, text=True, env=ENV)
    check("what has no rows is refused", done.returncode == 1 and "no row" in done.stderr, done.stderr)


def test_run():
    options = ["-p", "The old king looked at the sea, and", "-n", "40", "--temp", "0", "--spec-draft-n-max", "3"]
    done = subprocess.run([OUTRIDER, "run", *options, "--jsonl", "--config", "/dev/null"], capture_output=True, text=True,
                          timeout=60, env=ENV)
    events = [e for e in map(json.loads, done.stdout.splitlines()) if e["event"] == "tokens" and "so_far" in e]
    written = [source for e in events for source in e["sources"]]
    counts = events[-1]["so_far"]
    svg = plot("--run", "--", *options)
    rects = list(svg.iter(SVG + "rect"))
    marks = [r for r in rects if r.get("height") == "8.0"]
    for source in ("verifier", "draft"):
        found = sum(r.get("fill") == SOURCES[source] for r in marks)
        check(f"one mark for each token of the {source}", found == written.count(source) > 0, (found, written))
    rejected = sum(r.get("fill") == "none" for r in rects)
    check("one for each that was rejected", rejected == counts["draft_n"] - counts["draft_n_accepted"], rejected)
    bars = {color: [r for r in rects if r.get("fill") == color and r.get("height") == "14.0"] for color in (AMBER, BLUE)}
    check("a bar of drafting and one of verifying for each round", len(bars[AMBER]) == len(bars[BLUE]) == len(events),
          [len(b) for b in bars.values()])
    check("the sum says so", any(f"40 tokens, {len(events)} rounds" in text_of(t) for t in svg.iter(SVG + "text")))
    width = float(svg.get("width"))
    check("nothing lies outside", all(0 <= x <= width and 0 <= y <= float(svg.get("height")) for r in rects[1:]
                                      for x, y in [numbers(r, "x", "y")]))


with tempfile.TemporaryDirectory() as temporary:
    test_speed(temporary)
test_run()
finish()
