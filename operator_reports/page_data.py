"""What the HTML page of a report knows, as one JSON object: small, since a page of many targets repeats itself.

Texts stand once, in ``texts``, and are named by their place. A graph that several targets take in one form stands once. Where
the nodes run is a list of runs, (place, how many nodes): -1 off the target, 0 could run and is left, n the n-th partition.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from m4c import __version__
from m4c.operator_reports.across import Found
from m4c.operator_reports.placement import LEVELS, Judged, NotConverted, Placement
from m4c.operator_reports.zoo.baseline import LEVELS as ZOO_LEVELS
from m4c.operator_reports.zoo.baseline import Baseline
from m4c.operator_reports.zoo.registry import ENTRIES
from m4c.targets.legality import Illegal, Reason, Verdict
from m4c.targets.profile import Target
from m4c.targets.view import Graph

OFF, LEFT = -1, 0
"""Places of nodes that are in no partition."""


@dataclass
class _Once:
    """Things that are kept once, and named by their place."""

    kept: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, thing: Any) -> int:
        """Return the place of a thing, kept from now on."""
        key = json.dumps(thing)
        if key not in self.places:
            self.places[key] = len(self.kept)
            self.kept.append(thing)
        return self.places[key]


@dataclass
class _Shared:
    """What several cells of the page name."""

    texts: _Once = field(default_factory=_Once)
    graphs: _Once = field(default_factory=_Once)
    reasons: _Once = field(default_factory=_Once)

    def graph(self, graph: Graph) -> int:
        """Return the place of a graph: of each node its operator, its module and what it makes."""
        nodes = graph.nodes
        operators = [self.texts.place(node.operator) for node in nodes]
        modules = [self.texts.place(node.where) for node in nodes]
        results = [self.texts.place(str(node.outputs[0]) if node.outputs else "") for node in nodes]
        return self.graphs.place([operators, modules, results])

    def reason(self, reason: Reason) -> int:
        """Return the place of a reason: its text, its fix and its source."""
        return self.reasons.place([self.texts.place(t) for t in (reason.text, reason.fix, reason.source)])


def page_data(
    subject: str,
    targets: Sequence[Target],
    found: Found,
    zoo: Baseline | None = None,
) -> dict[str, object]:
    """Return all that the page of ``subject`` shows, with the growth of the ``zoo`` if it is given."""
    shared = _Shared()
    graphs = dict.fromkeys(one.name for target in targets for one in found[target.name])
    absent = {
        name: NotConverted(name, "it has no graph of this name for the target", "none") for name in graphs
    }
    cells = [
        [_cell(one, shared) for one in (absent | {one.name: one for one in found[target.name]}).values()]
        for target in targets
    ]
    return {
        "version": __version__,
        "subject": subject,
        "targets": [{"name": target.name, "summary": target.summary} for target in targets],
        "levels": LEVELS,
        "cells": cells,
        "texts": shared.texts.kept,
        "graphs": shared.graphs.kept,
        "reasons": shared.reasons.kept,
        "growth": None if zoo is None else _growth(zoo),
    }


def _cell(one: Judged, shared: _Shared) -> dict[str, Any]:
    """Return a graph on a target."""
    if isinstance(one, NotConverted):
        return {"graph": one.name, "outcome": "not converted", "why": one.why, "fix": one.fix}
    whole, taken = one.whole, one.taken
    return {
        "graph": one.name,
        "outcome": one.outcome,
        "runtime": one.runtime,
        "evidence": one.evidence,
        "assumed": one.assumed,
        "nodes": [len(one.graph.nodes), len(one.delegated)],
        "macs": [whole.macs, taken.macs],
        "bytes": [whole.bytes, taken.bytes],
        "partitions": len(one.cut.delegated),
        "crossing": one.crossing,
        "seconds": one.seconds,
        "refused": None if one.refused is None else shared.reason(one.refused),
        "form": shared.graph(one.graph),
        "runs": _runs(one),
        "why": {
            str(index): _said(verdict, shared)
            for index, verdict in enumerate(one.verdicts)
            if isinstance(verdict, Illegal)
        },
    }


def _said(verdict: Verdict, shared: _Shared) -> list[int]:
    return [shared.reason(reason) for reason in verdict.reasons] if isinstance(verdict, Illegal) else []


def _runs(one: Placement) -> list[int]:
    """Return where the nodes run, in execution order: place, count, place, count …"""
    partitions = enumerate(one.cut.delegated, 1)
    numbers = {node: number for number, partition in partitions for node in partition.nodes}
    places = [
        numbers.get(index, OFF if isinstance(verdict, Illegal) else LEFT)
        for index, verdict in enumerate(one.verdicts)
    ]
    return [figure for place, run in groupby(places) for figure in (place, len(list(run)))]


def _growth(zoo: Baseline) -> dict[str, object]:
    """Return the union of the zoo's operator types after each task at each level, and M4's."""
    return {
        "tasks": [[entry.task, entry.model + ("°" if entry.proxy else "")] for entry in ENTRIES],
        "levels": ZOO_LEVELS,
        "union": {level: [step.union for step in zoo.growth(level)] for level in ZOO_LEVELS},
        "new": {level: [" ".join(step.new) for step in zoo.growth(level)] for level in ZOO_LEVELS},
        "m4": {level: len(zoo.m4(level)) for level in ZOO_LEVELS},
    }
