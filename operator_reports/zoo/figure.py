"""The paper's figures of operator types, of outcomes and of scaling, by our counts.

matplotlib is needed: ``pip install m4c[figures]``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m4c.errors import UsageError
from m4c.operator_reports.zoo.baseline import Baseline
from m4c.operator_reports.zoo.placed import OUTCOMES, Placed
from m4c.operator_reports.zoo.registry import ENTRIES
from m4c.operator_reports.zoo.render_placed import BOUND, PAPER
from m4c.operator_reports.zoo.scaling import Scaling

DRAWN = {
    "optimized": ("#2a6fbb", "torch's ONNX export", True),
    "canonical": ("#c2571a", "m4c's canonical form", False),
}
"""Levels in the picture of the growth: colour, words, and whether these stand above the line."""

OUTCOME_COLOURS = dict(zip(OUTCOMES, ("#3d9a5f", "#e2b43c", "#d2694a", "#9aa3ad"), strict=True))
"""The colour of each outcome."""

FORMS = ("svg", "png")


def draw(found: Baseline, path: Path) -> Path:
    """Draw the growth into ``path`` and the use of the types beside it, into ``…-use``; return the second path.

    Equal counts make equal bytes.

    Raises:
        UsageError: if there is no matplotlib, or a file is no .svg or .png or cannot be written.
    """
    growth = _figure(path, 8, 4)
    _growth(growth.subplots(), found)
    _save(growth, path)
    use = _figure(path, 12, 6)
    _use(use.subplots(2), found)
    beside = path.with_stem(f"{path.stem}-use")
    _save(use, beside)
    return beside


def draw_scaling(found: Scaling, path: Path) -> None:
    """Draw what 1 to 50 tasks need on the disk and in memory into ``path``. Equal sizes make equal bytes.

    Raises:
        UsageError: as :func:`draw` does.
    """
    figure = _figure(path, 11, 4)
    panels = (("storage", "on the disk, GB"), ("memory", "resident, GB"))
    for axes, (of, words) in zip(figure.subplots(1, 2), panels, strict=True):
        for name, line, colour, style in (
            ("models, float32", found.models("float32"), "#2a6fbb", "-"),
            ("models, float16", found.models("float16"), "#2a6fbb", "--"),
            ("M4, backbone in INT8", found.m4("int8"), "#c2571a", "-"),
            ("M4, backbone in INT4", found.m4("int4"), "#c2571a", "--"),
        ):
            bytes_ = [getattr(point, of) / 1e9 for point in line]
            axes.step(
                range(1, len(line) + 1), bytes_, where="post", color=colour, linestyle=style, label=name
            )
        axes.set(xlabel="tasks, in the paper's order", ylabel=words, xlim=(1, len(ENTRIES)), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, title="estimated from shapes")
    _save(figure, path)


def draw_placed(found: Placed, targets: Sequence[str], path: Path) -> None:
    """Draw what share of the tasks' models has each outcome on ``targets``, with the paper's below, and M4's graphs beside.

    Raises:
        UsageError: as :func:`draw` does.
    """
    figure = _figure(path, 11, 1.2 + 0.34 * len(targets))
    fleet = {target: found.outcomes(target) for target in targets} | {"the paper's 110 models": PAPER}
    m4 = {target: found.m4_outcomes(target) for target in targets}
    panels = zip(
        figure.subplots(1, 2), (f"models of {len(ENTRIES)} tasks", "graphs of M4"), (fleet, m4), strict=True
    )
    for axes, words, rows in panels:
        _bars(axes, rows)
        axes.set_title(words, loc="left", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(OUTCOMES), frameon=False, title=BOUND
    )
    _save(figure, path)


def _bars(axes: Any, rows: Mapping[str, Mapping[str, int]]) -> None:
    """Draw a bar a row, cut into the shares of its outcomes."""
    names, left = list(rows)[::-1], [0.0] * len(rows)
    for outcome, colour in OUTCOME_COLOURS.items():
        shares = [100 * rows[name][outcome] / max(1, sum(rows[name].values())) for name in names]
        bars = axes.barh(names, shares, left=left, color=colour, label=outcome)
        axes.bar_label(
            bars, [f"{share:.0f}" if share >= 5 else "" for share in shares], label_type="center", fontsize=8
        )
        left = [begin + share for begin, share in zip(left, shares, strict=True)]
    axes.set(xlabel="%", xlim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)


def _figure(path: Path, width: float, height: float) -> Any:
    """Return an empty picture, of inches, that can be saved as ``path``."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("a picture needs matplotlib", fix="pip install 'm4c[figures]'") from error
    if path.suffix[1:] not in FORMS:
        raise UsageError("a picture is an .svg or a .png file", where=str(path), fix="end its name so")
    return Figure(figsize=(width, height), layout="constrained")


def _growth(axes: Any, found: Baseline) -> None:
    """Draw the union after each task and M4's constant line."""
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


def _use(axes: Any, found: Baseline, level: str = "optimized") -> None:
    """Draw what share of M4's graphs, and of the models of the tasks, uses each type."""
    graphs = len(found.data["m4"])
    rows = (
        ("#1a7f74", f"share of M4's {graphs} graphs", found.m4_uses(level), graphs),
        ("#2a6fbb", f"share of the models of {len(ENTRIES)} tasks", found.uses(level), len(ENTRIES)),
    )
    for one, (colour, words, uses, whole) in zip(axes, rows, strict=True):
        one.bar(list(uses), [100 * count / whole for count in uses.values()], color=colour)
        one.set_title(f"{words}: {len(uses)} types", loc="left", fontsize=11)
        one.set(ylabel="%", ylim=(0, 100), xlim=(-0.6, len(uses) - 0.4))
        one.tick_params("x", rotation=90, labelsize=8)
        one.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    """Write a picture: no date, no random names, and of an SVG its texts as texts."""
    import matplotlib

    kept = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    try:
        with matplotlib.rc_context({"svg.hashsalt": "m4c", "svg.fonttype": "none"}):
            figure.savefig(path, format=path.suffix[1:], metadata=kept)
    except OSError as error:
        raise UsageError(
            f"cannot write the picture: {error.strerror}", where=str(path), fix="give another path"
        ) from error
