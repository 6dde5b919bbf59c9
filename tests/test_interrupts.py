"""A few of the points of interrupts.py."""
import os

os.environ.setdefault("POINTS", "5")
import interrupts  # noqa: E402, F401: it runs when imported
