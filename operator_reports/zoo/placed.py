"""Where the zoo's models and M4's graphs run on every target, as data: read, written, and asked. No torch is needed for it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4c.operator_reports.placement import Judged, NotConverted
from m4c.operator_reports.zoo.registry import ENTRIES, Entry

SCHEMA = 1
"""Version of the stored file: it changes when a key is renamed, removed or means something else."""

STORED = Path(__file__).resolve().parent.parent / "baseline" / "zoo_targets.json"
"""The file that comes with m4c."""

OUTCOMES = {
    "whole": "every node runs on the target",
    "split": "some nodes run on the target, the others on the CPU",
    "refused": "the target takes nothing of it",
    "not converted": "m4c writes no file in the target's format, or none without steps between that only a CPU can do",
}
"""What becomes of a model, the best first."""

HOST = "host"
"""Of a graph that is the CPU's by design, such as a look-up of rows: it counts neither for nor against a model."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of some graphs together on a target."""

    outcome: str
    """One of ``OUTCOMES``; ``HOST`` if there is nothing but what is the CPU's by design."""
    nodes: int
    """Of graphs that could be converted."""
    delegated: int
    """How many of them run there."""
    macs: int
    """Multiply-accumulates of all these nodes."""
    taken: int
    """Those of the nodes that run there."""
    partitions: int
    reason: str
    """Why there is no file, else the operator that breaks the first graph that is not whole first, else nothing."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The stored placements."""

    data: Mapping[str, Any]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that were asked."""
        return tuple(self.data["targets"])

    def of(self, entry: Entry, target: str) -> Fate:
        """Return what becomes of the model of a task."""
        return fate(self.data["models"][entry.builder][target].values())

    def of_m4(self, target: str) -> dict[str, Fate]:
        """Return what becomes of each graph of M4."""
        return {graph: fate([row]) for graph, row in self.data["m4"][target].items()}

    def outcomes(self, target: str) -> dict[str, int]:
        """Return how many tasks' models have each of ``OUTCOMES``."""
        return _counted(self.of(entry, target) for entry in ENTRIES)

    def m4_outcomes(self, target: str) -> dict[str, int]:
        """Return how many of M4's graphs have each of ``OUTCOMES``; those that are the CPU's by design have none."""
        return _counted(self.of_m4(target).values())

    def partitions(self, target: str) -> list[int]:
        """Return the partitions of the tasks' models that are split, ascending."""
        fates = [self.of(entry, target) for entry in ENTRIES]
        return sorted(one.partitions for one in fates if one.outcome == "split")

    def changed(self, digests: Mapping[str, str]) -> list[str]:
        """Return those of the targets in ``digests`` whose profile, by its digest, is not the one that was asked."""
        return [target for target, digest in digests.items() if self.data["targets"][target] != digest]


def _counted(fates: Iterable[Fate]) -> dict[str, int]:
    found = Counter(one.outcome for one in fates)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def row(one: Judged) -> Row:
    """Return of a placement what is stored."""
    if isinstance(one, NotConverted):
        return {"outcome": HOST if one.by_host else "not converted", "why": one.why}
    first = one.first_break
    return {
        "outcome": one.outcome,
        "nodes": [len(one.graph.nodes), len(one.delegated)],
        "macs": [one.whole.macs, one.taken.macs],
        "partitions": len(one.cut.delegated),
        "break": "" if first is None else first.node.operator,
    }


def fate(rows: Iterable[Row]) -> Fate:
    """Return what becomes of graphs together: a file too few, and the model is not converted."""
    found = list(rows)
    asked = [one for one in found if one["outcome"] != HOST]
    made = [one for one in asked if one["outcome"] != "not converted"]
    outcomes = {one["outcome"] for one in asked}
    outcome = "split" if asked else HOST
    if len(made) < len(asked):
        outcome = "not converted"
    elif len(outcomes) == 1:
        (outcome,) = outcomes
    reasons = [one["why"] for one in asked or found if "why" in one]
    reasons += [one["break"] for one in made if one["outcome"] != "whole"]
    nodes, delegated, macs, taken = (
        sum(one[key][place] for one in made) for key in ("nodes", "macs") for place in (0, 1)
    )
    partitions = sum(one["partitions"] for one in made)
    reason = next(filter(None, map(str, reasons)), "")
    return Fate(outcome, nodes, delegated, macs, taken, partitions, reason)


def stored() -> Placed:
    """Return what comes with m4c."""
    return Placed(json.loads(STORED.read_text("utf-8")))


def store(data: Mapping[str, Any]) -> None:
    """Replace what comes with m4c: a line for each model on each target."""
    lines = [f'"{key}":{_compact(value)}' for key, value in data.items() if key not in ("models", "m4")]
    for key in ("models", "m4"):
        groups = ",\n".join(f'"{name}":{_lines(held)}' for name, held in data[key].items())
        lines.append(f'"{key}":{{\n{groups}\n}}')
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _lines(held: Mapping[str, Any]) -> str:
    return "{\n" + ",\n".join(f' "{name}":{_compact(value)}' for name, value in held.items()) + "\n}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
