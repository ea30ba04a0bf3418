"""The rules that are about all graphs of a subject together: operator types, new ones, and the size."""

from collections.abc import Mapping
from dataclasses import replace

from m4c.operator_reports.gate.figures import Figures, GraphFigures
from m4c.operator_reports.gate.finding import UPDATE, Ledger, Place
from m4c.operator_reports.gate.limits import Limits
from m4c.operator_reports.placement import Placement

SPARE, SPARE_BYTES = 0.01, 4096
"""How much a size may differ from the baseline's, as a part of it and in bytes: an operator takes some by itself. Since the
baseline stays, that does not add up from change to change."""


def whole(
    figures: Figures,
    baseline: Figures | None,
    before: Mapping[str, GraphFigures],
    limits: Limits,
    placed: Mapping[str, Placement],
    ledger: Ledger,
) -> None:
    """Ask these rules; ``before`` are the graphs of the baseline that ``figures`` are compared with."""
    if limits.max_op_types is not None:
        _types(figures, limits.max_op_types, ledger)
    if baseline is not None:
        _new(figures, baseline, limits.max_new_operators or 0, placed, ledger)
    old = None if baseline is None else replace(baseline, graphs=before).size
    if limits.max_size is None and old is None:
        return
    ledger.ask("size", "")
    if limits.max_size is not None and figures.size > limits.max_size:
        text = f"{figures.size} bytes, {limits.max_size} allowed"
        ledger.add("size", "", text, f"{_largest(figures)}; --quantize makes artifacts smaller")
    elif old is not None and figures.size > old + max(SPARE_BYTES, SPARE * old):
        text = f"{figures.size} bytes, {old} in the baseline{_grown(figures, before)}"
        ledger.add("size", "", text, UPDATE)
    elif old is not None and figures.size < old - max(SPARE_BYTES, SPARE * old):
        ledger.better.append(f"{figures.size} bytes, {old} in the baseline")


def _types(figures: Figures, most: int, ledger: Ledger) -> None:
    """Ask how many operator types there are, of each format by itself."""
    ledger.ask("operator-types", "")
    for form, types in figures.operators().items():
        if len(types) > most:
            text = f"{len(types)} {form} operator types, {most} allowed: {' '.join(sorted(types))}"
            ledger.add("operator-types", "", text, "rewrite the rarest: m4c report tells where each is")


def _new(
    figures: Figures,
    baseline: Figures,
    allowed: int,
    placed: Mapping[str, Placement],
    ledger: Ledger,
) -> None:
    """Ask for operator types that no graph of the baseline has, ``allowed`` of them beside those that are waived."""
    ledger.ask("new-operators", "")
    known = baseline.operators()
    fresh = [
        (operator, _first(placed, form, operator))
        for form, types in figures.operators().items()
        for operator in sorted(types - known.get(form, set()))
    ]
    # What is waived where it does not run is said already.
    fresh = [(operator, place) for operator, place in fresh if (place.graph, operator) not in ledger.passed]
    unwaived = [
        operator
        for operator, place in fresh
        if ledger.waiver("new-operators", "", operator, place.where) is None
    ]
    for operator, place in fresh:
        if operator in unwaived and len(unwaived) <= allowed:
            continue
        text = f"{operator} is an operator type that the baseline has nowhere"
        beside = f"; {len(unwaived)} are new, {allowed} allowed" if allowed else ""
        ledger.add("new-operators", "", text + beside, UPDATE, place, operator)


def _first(placed: Mapping[str, Placement], form: str, operator: str) -> Place:
    """Return the first node of an operator type."""
    return next(
        Place(operator, node.index, node.where, "", UPDATE, name)
        for name, one in placed.items()
        if one.graph.format == form
        for node in one.graph.nodes
        if node.operator == operator
    )


def _largest(figures: Figures) -> str:
    """Return which artifact is the largest."""
    name = max(figures.graphs, key=lambda graph: figures.graphs[graph].size or 0)
    return f"the largest is {name}, {figures.graphs[name].size} bytes"


def _grown(figures: Figures, before: Mapping[str, GraphFigures]) -> str:
    """Return which graph grew most."""
    more = {
        name: (graph.size or 0) - (before[name].size or 0)
        for name, graph in figures.graphs.items()
        if name in before
    }
    name = max(more, key=lambda graph: more[graph], default="")
    return f"; {name} grew by {more[name]}" if name and more[name] > 0 else ""
