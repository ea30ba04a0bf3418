"""The growth of the zoo's operator types as a picture. matplotlib is needed for it: ``pip install m4c[figures]``."""

from pathlib import Path

from m4c.errors import UsageError
from m4c.operator_reports.zoo.baseline import Baseline
from m4c.operator_reports.zoo.registry import ENTRIES

DRAWN = {
    "optimized": ("#2a6fbb", "torch's ONNX export", True),
    "canonical": ("#c2571a", "m4c's canonical form", False),
}
"""Levels in the picture: colour, words, and whether these stand above the line."""


def draw(found: Baseline, path: Path) -> None:
    """Draw the union after each task and M4's constant line into an SVG file; equal counts make equal bytes.

    Raises:
        UsageError: if there is no matplotlib, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib", fix="pip install 'm4c[figures]'") from error
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    tasks = range(1, len(ENTRIES) + 1)
    for level, (colour, words, above) in DRAWN.items():
        union, m4 = [step.union for step in found.growth(level)], len(found.m4(level))
        axes.step(tasks, union, where="post", color=colour, linewidth=2)
        axes.axhline(m4, color=colour, linestyle="--", linewidth=1.5)
        for who, count, below in (("50 models", union[-1], -30), ("M4", m4, -14)):
            place = {"xytext": (0, 6 if above else below), "textcoords": "offset points", "ha": "right"}
            axes.annotate(f"{who}, {words}: {count}", (len(ENTRIES), count), color=colour, **place)
    axes.margins(y=0.12)
    axes.set(xlabel="tasks, in the paper's order", ylabel="ONNX operator types", xlim=(1, 50), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    try:
        with matplotlib.rc_context({"svg.hashsalt": "m4c", "svg.fonttype": "none"}):
            figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise UsageError(
            f"cannot write the picture: {error.strerror}", where=str(path), fix="give another path"
        ) from error
