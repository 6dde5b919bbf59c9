"""Drawings as SVG text: what tools/picture.py and tools/plot_bench.py share."""
import html

DARK, GREY, LIGHT, GREEN, CYAN, RED, AMBER, BLUE = ("#0d1117", "#8b949e", "#e6edf3", "#3fb950", "#39c5cf", "#f85149",
                                                    "#d29922", "#58a6ff")
SOURCES = {"caller": GREY, "verifier": LIGHT, "draft": GREEN, "ngram": CYAN}  # who wrote a token
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def attributes(values):
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in values.items())


class Drawing:
    """Shapes in the order in which they are drawn, on a dark ground."""

    def __init__(self, width, height, size=14):
        self.width, self.height, self.size, self.shapes = width, height, size, []

    def rect(self, x, y, width, height, fill, **more):
        self.shapes.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                           f'fill="{fill}"{attributes(more)}/>')

    def line(self, points, stroke, **more):
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.shapes.append(f'<polyline points="{at}" fill="none" stroke="{stroke}"{attributes(more)}/>')

    def dot(self, x, y, fill, title="", radius=3.5):
        self.shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}">'
                           f"<title>{html.escape(title)}</title></circle>")

    def text(self, x, y, words, fill=LIGHT, **more):
        """words: a text, or pieces of (text, colour)."""
        if isinstance(words, str):
            words = [(words, fill)]
        spans = "".join(f'<tspan fill="{color}">{html.escape(text)}</tspan>' for text, color in words)
        self.shapes.append(f'<text x="{x:g}" y="{y:g}"{attributes(more)}>{spans}</text>')

    def __str__(self):
        w, h = round(self.width), round(self.height)
        head = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}">',
                f'<rect width="{w}" height="{h}" rx="8" fill="{DARK}"/>',
                f'<g font-family="{MONO}" font-size="{self.size}" xml:space="preserve">']
        return "\n".join(head + self.shapes + ["</g>", "</svg>"])
