"""Where the zoo's models run, for people and for programs: the paper's Figure 2, of a fleet whose models are known."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from rich.table import Table

from m4c.operator_reports.zoo.placed import OUTCOMES, SCHEMA, Fate, Placed
from m4c.operator_reports.zoo.registry import ENTRIES

PAPER = {"whole": 8, "split": 49, "refused": 30, "not converted": 13}
"""Percent of 110 models that the paper put on the NPU of a Pixel 7 Pro (Figure 2). Quoted, never computed."""

PAPER_TEXT = (
    "the paper (Figure 2), 110 models on the NPU of a Pixel 7 Pro: 8 % wholly there, 49 % on CPU and NPU together, "
    "30 % fail, 13 % are not converted"
)
BOUND = "An upper bound: by each profile's lists and documented limits; no compiler of a target was asked."


def to_outcomes(found: Placed, targets: Sequence[str]) -> Table:
    """Return a row a target: how many of the tasks' models, and of M4's graphs, have each outcome."""
    table = Table(
        title=f"What becomes of {len(ENTRIES)} task-specific models, and of M4's graphs",
        caption=_caption(found),
    )
    table.add_column("target", no_wrap=True)
    for heading in (*OUTCOMES, "partitions\n(median)", "most", *(f"M4\n{outcome}" for outcome in OUTCOMES)):
        table.add_column(heading, justify="right")
    for target in targets:
        table.add_row(*_outcome_row(found, target))
    return table


def _outcome_row(found: Placed, target: str) -> list[str]:
    parts = found.partitions(target)
    counts, m4 = (
        [str(n) for n in one.values()] for one in (found.outcomes(target), found.m4_outcomes(target))
    )
    return [target, *counts, *((f"{median(parts):g}", str(parts[-1])) if parts else ("", "")), *m4]


def to_table(found: Placed, target: str) -> Table:
    """Return a row a task: what becomes of its model on ``target``, then of each graph of M4."""
    table = Table(title=f"The models of {len(ENTRIES)} tasks, and M4, on {target}", caption=_caption(found))
    for heading in ("task", "model", "outcome"):
        table.add_column(heading, no_wrap=True)
    for heading in ("nodes", "there", "MACs", "partitions"):
        table.add_column(heading, justify="right")
    table.add_column("first break, or why there is no file", overflow="fold")
    for row in _rows(found, target):
        table.add_row(*row)
    return table


def _rows(found: Placed, target: str) -> list[list[str]]:
    """Return a row a task and then one a graph of M4; ° stands behind a proxy."""
    fates = [(e.task, e.model + ("°" if e.proxy else ""), found.of(e, target)) for e in ENTRIES]
    fates += [("M4", graph, fate) for graph, fate in found.of_m4(target).items()]
    return [[task, model, fate.outcome, *_figures(fate), fate.reason] for task, model, fate in fates]


def _figures(fate: Fate) -> list[str]:
    """Return nodes, those on the target, the share of multiply-accumulates there, and partitions."""
    if not fate.nodes:
        return [""] * 4
    share = f"{100 * fate.taken / fate.macs:.0f} %" if fate.macs else ""
    return [str(fate.nodes), str(fate.delegated), share, str(fate.partitions)]


def to_markdown(found: Placed, targets: Sequence[str]) -> str:
    """Return a Markdown page: the outcomes on each target, then every model on each."""
    heads = [*OUTCOMES, "partitions (median)", "most", *(f"M4: {outcome}" for outcome in OUTCOMES)]
    lines = [f"# {len(ENTRIES)} task-specific models, and M4, on targets", "", f"{_caption(found)}.", ""]
    lines += [f"| target | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    lines += [f"| {' | '.join(_outcome_row(found, target))} |" for target in targets]
    for target in targets:
        lines += [
            "",
            f"## {target}",
            "",
            "| task | model | outcome | nodes | there | MACs | partitions | first break, or why |",
        ]
        lines += ["|---|---|---|---:|---:|---:|---:|---|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(found, target)]
    return "\n".join([*lines, ""])


def to_json(found: Placed, targets: Sequence[str]) -> dict[str, object]:
    """Return a plain object: by target the outcomes, the partitions of what is split, every task and M4's graphs."""
    return {
        "schema": SCHEMA,
        "kind": "zoo placements",
        "evidence": "table",
        "opset": found.data["opset"],
        "libraries": found.data["libraries"],
        "outcomes": OUTCOMES,
        "paper": {"models": 110, "percent": PAPER, "source": PAPER_TEXT},
        "targets": {
            target: {
                "profile": found.data["targets"][target],
                "outcomes": found.outcomes(target),
                "partitions": found.partitions(target),
                "tasks": {entry.task: asdict(found.of(entry, target)) for entry in ENTRIES},
                "m4_outcomes": found.m4_outcomes(target),
                "m4": {graph: asdict(fate) for graph, fate in found.of_m4(target).items()},
            }
            for target in targets
        },
    }


def _caption(found: Placed) -> str:
    proxies = sum(bool(entry.proxy) for entry in ENTRIES)
    torch = found.data["libraries"]["torch"]
    return f"{BOUND} torch {torch}, opset {found.data['opset']}, {proxies} proxies (°). For comparison, {PAPER_TEXT}"
