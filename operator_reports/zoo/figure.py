"""The growth of the zoo's operator types as a picture. matplotlib is needed for it: ``pip install m4c[figures]``."""

from pathlib import Path

from m4c.errors import UsageError
from m4c.operator_reports.zoo.baseline import Baseline
from m4c.operator_reports.zoo.registry import ENTRIES

DRAWN = {"optimized": ("#2a6fbb", "torch's ONNX export"), "canonical": ("#c2571a", "m4c's canonical form")}
"""Levels in the picture: colour and words."""


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
    for level, (colour, words) in DRAWN.items():
        union = [step.union for step in found.growth(level)]
        axes.step(tasks, union, where="post", color=colour, linewidth=2)
        axes.annotate(
            f"50 models, {words}: {union[-1]}",
            (50, union[-1]),
            (0, 5),
            textcoords="offset points",
            ha="right",
            color=colour,
        )
        m4 = len(found.m4(level))
        axes.axhline(m4, color=colour, linestyle="--", linewidth=1.5)
        axes.annotate(
            f"M4, {words}: {m4}", (50, m4), (0, -12), textcoords="offset points", ha="right", color=colour
        )
    axes.set(xlabel="tasks, in the paper's order", ylabel="ONNX operator types", xlim=(1, 50), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    try:
        with matplotlib.rc_context({"svg.hashsalt": "m4c", "svg.fonttype": "none"}):
            figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise UsageError(
            f"cannot write the picture: {error.strerror}", where=str(path), fix="give another path"
        ) from error
