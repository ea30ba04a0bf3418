"""Two states of a model beside each other: operators gained and lost, coverage, partitions, sizes and errors."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from m4c.operator_reports.gate.figures import Figures, GraphFigures

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""

FIGURES = {
    "outcome": "outcome",
    "nodes": "nodes on the target",
    "macs": "multiply-accumulates on the target",
    "bytes": "bytes on the target",
    "partitions": "partitions",
    "size": "size in bytes",
    "error": "error",
    "sqnr_db": "SQNR in dB",
}
"""The figures of a graph that are compared, and what they are called."""


@dataclass(frozen=True, slots=True)
class GraphDiff:
    """A graph in two states; None where one of them does not have it."""

    graph: str
    before: GraphFigures | None
    after: GraphFigures | None

    @property
    def operators(self) -> dict[str, tuple[int, int]]:
        """How often each operator type occurs before and after, where that differs; of one format alone."""
        if self.before and self.after and self.before.format != self.after.format:
            return {}
        old = self.before.operators if self.before else {}
        new = self.after.operators if self.after else {}
        found = {name: (old.get(name, 0), new.get(name, 0)) for name in sorted({*old, *new})}
        return {name: counts for name, counts in found.items() if counts[0] != counts[1]}

    @property
    def figures(self) -> dict[str, tuple[Any, Any]]:
        """The figures that are known of both states and differ."""
        if self.before is None or self.after is None:
            return {}
        pairs = {name: (getattr(self.before, name), getattr(self.after, name)) for name in FIGURES}
        return {
            name: (old, new)
            for name, (old, new) in pairs.items()
            if old != new and old not in (None, "") and new not in (None, "")
        }

    @property
    def state(self) -> str:
        """``gained``, ``lost``, ``changed`` or ``equal``."""
        if self.before is None:
            return "gained"
        if self.after is None:
            return "lost"
        other = self.before.format != self.after.format
        return "changed" if other or self.operators or self.figures else "equal"


@dataclass(frozen=True, slots=True)
class Diff:
    """Two subjects beside each other."""

    before: Figures
    after: Figures
    graphs: tuple[GraphDiff, ...]

    @property
    def operators(self) -> dict[str, dict[str, list[str]]]:
        """By format, the operator types that some graph has after and none had before, and the other way round."""
        old, new = self.before.operators(), self.after.operators()
        return {
            form: {
                "gained": sorted(new.get(form, set()) - old.get(form, set())),
                "lost": sorted(old.get(form, set()) - new.get(form, set())),
            }
            for form in sorted({*old, *new})
        }


def diff(before: Figures, after: Figures) -> Diff:
    """Return two subjects beside each other: graphs of one name, or, where each has a single one, these."""
    old, new = before.graphs, after.graphs
    if len(old) == len(new) == 1 and set(old) != set(new):
        ((first, was),) = old.items()
        ((second, now),) = new.items()
        return Diff(before, after, (GraphDiff(f"{first} → {second}", was, now),))
    names = (*old, *(name for name in new if name not in old))
    return Diff(before, after, tuple(GraphDiff(name, old.get(name), new.get(name)) for name in names))


def rows(found: Diff) -> Iterator[tuple[str, str, str, str]]:
    """Yield what differs: graph, figure, before, after."""
    for one in found.graphs:
        if one.before is None or one.after is None:
            yield one.graph, "graph", *(("–", "gained") if one.before is None else ("there", "lost"))
            continue
        if one.before.format != one.after.format:
            yield one.graph, "format", one.before.format or "–", one.after.format or "–"
        for name, (old, new) in one.operators.items():
            yield one.graph, name, str(old), str(new)
        for name, (old, new) in one.figures.items():
            yield one.graph, FIGURES[name], str(old), str(new)
    for form, types in found.operators.items():
        for word, names in types.items():
            if names:
                yield "all graphs", f"{form} operator types {word}", "", " ".join(names)
    if (
        len(found.graphs) > 1
        and found.before.size != found.after.size
        and found.before.size
        and found.after.size
    ):
        yield "all graphs", "size in bytes", str(found.before.size), str(found.after.size)


def to_table(found: Diff) -> Table:
    """Return a row a difference."""
    table = Table("graph", "what", title=f"{_named(found.before)} and {_named(found.after)}")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows(found):
        table.add_row(*row)
    equal = sum(one.state == "equal" for one in found.graphs)
    table.caption = f"{equal} of {len(found.graphs)} graphs are equal"
    return table


def to_markdown(found: Diff) -> str:
    """Return the same as Markdown."""
    lines = [f"### {_cell(_named(found.before))} and {_cell(_named(found.after))}", ""]
    made = [f"| {' | '.join(map(_cell, row))} |" for row in rows(found)]
    if not made:
        return "\n".join([*lines, "Nothing differs.", ""])
    return "\n".join([*lines, "| graph | what | before | after |", "| --- | --- | ---: | ---: |", *made, ""])


def to_json(found: Diff) -> dict[str, Any]:
    """Return a plain object of version ``SCHEMA``, equal for equal states."""
    return {
        "schema": SCHEMA,
        "kind": "diff",
        "before": _subject(found.before),
        "after": _subject(found.after),
        "operators": found.operators,
        "graphs": [
            {
                "graph": one.graph,
                "state": one.state,
                "operators": {name: list(counts) for name, counts in one.operators.items()},
                "figures": {name: [_plain(old), _plain(new)] for name, (old, new) in one.figures.items()},
            }
            for one in found.graphs
        ],
    }


def _subject(figures: Figures) -> Mapping[str, Any]:
    return {"subject": figures.subject, "target": figures.target or None, "size": figures.size}


def _plain(value: Any) -> Any:
    return (
        dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )


def _named(figures: Figures) -> str:
    return f"{figures.subject} on {figures.target}" if figures.target else figures.subject


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
