"""A gate: placements against limits, a baseline and waivers.

Nodes that a waiver names are taken as if the target ran them; then every rule is asked of what is left. What fails is said
with the node to look at, causes before what follows from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

from m4c.errors import UsageError
from m4c.operator_reports.gate.case import Case
from m4c.operator_reports.gate.figures import Figures, GraphFigures, names, of_judged
from m4c.operator_reports.gate.finding import UPDATE, Ledger, Outcome, counted, place_of
from m4c.operator_reports.gate.limits import RULES, Limits
from m4c.operator_reports.gate.waivers import Waiver, for_target
from m4c.operator_reports.gate.whole import whole
from m4c.operator_reports.placement import Judged, NotConverted, Placement
from m4c.targets.legality import Illegal, Legal, refusal
from m4c.targets.partition import cut
from m4c.targets.profile import Target
from m4c.targets.view import Node

SOON_DAYS = 14
"""How many days before its end a waiver is told of."""


def check(
    found: Sequence[Judged],
    figures: Figures,
    target: Target,
    limits: Limits,
    baseline: Figures | None,
    waivers: Sequence[Waiver],
    today: date,
    scope: Sequence[str] = (),
) -> Outcome:
    """Return what of ``found``, whose figures are ``figures``, is worse than ``limits`` and ``baseline`` allow.

    ``scope`` are the sub-models and graphs that were looked at, where that was not all of the baseline's subject.

    Raises:
        UsageError: if a limit is of something that is not known of the subject, or of the baseline's evidence.
    """
    _require(figures, limits, baseline)
    mine = for_target(waivers, target.name)
    ledger = Ledger([w for w in mine if not w.expired(today)], [w for w in mine if w.expired(today)])
    taken = [_with_waivers(one, target, ledger) for one in found]
    waived = of_judged(figures.subject, figures.target, taken).graphs
    now = {
        name: replace(waived[name], size=graph.size, error=graph.error, sqnr_db=graph.sqnr_db)
        for name, graph in figures.graphs.items()
    }
    placed = {one.graph.name: one for one in taken if isinstance(one, Placement)}
    unplaced = {one.name: one for one in taken if isinstance(one, NotConverted)}
    before = {} if baseline is None else {g: baseline.graphs[g] for g in names(baseline.graphs, scope)}
    if baseline is not None:
        _graphs(now, before, ledger)
    for name, graph in now.items():
        case = Case(name, graph, before.get(name), limits, ledger)
        if name in unplaced:
            case.converted(unplaced[name])
        else:
            case.placed(placed[name])
    whole(replace(figures, graphs=now), baseline, before, limits, placed, ledger)
    order = list(RULES)
    findings = sorted(ledger.findings, key=lambda one: order.index(one.rule))
    return Outcome(
        figures, tuple(findings), tuple(ledger.checked), tuple(ledger.better), _notes(mine, ledger, today)
    )


def _require(figures: Figures, limits: Limits, baseline: Figures | None) -> None:
    """Raise if a limit cannot be held against anything: it would pass whatever happens."""
    if not limits.given and baseline is None:
        raise UsageError(
            "the gate has neither a limit nor a baseline: it would pass whatever happens",
            fix="add --baseline DIR, or a limit such as --min-coverage 95",
        )
    if limits.max_new_operators is not None and baseline is None:
        raise UsageError(
            "--max-new-operators counts from a baseline, and none is given", fix="add --baseline DIR"
        )
    for option, limit, name in (
        ("--max-error", limits.max_error, "error"),
        ("--min-sqnr", limits.min_sqnr, "sqnr_db"),
    ):
        if limit is not None and all(getattr(g, name) is None for g in figures.graphs.values()):
            raise UsageError(
                f"{option} needs errors, and {figures.subject} has none",
                fix="give a bundle: m4c export records how far each artifact is from its source",
            )
    if baseline is not None and baseline.evidence != figures.evidence:
        raise UsageError(
            f"the baseline's evidence is {baseline.evidence}, the gate's {figures.evidence}",
            fix="ask for the same evidence, or write the baseline again with --update-baseline",
        )


def _with_waivers(one: Judged, target: Target, ledger: Ledger) -> Judged:
    """Return a placement as if the target ran the nodes that are waived, and put those down."""
    if isinstance(one, NotConverted):
        return one
    name = one.graph.name
    passed: dict[tuple[Waiver, str], list[Node]] = {}
    for node, verdict in zip(one.graph.nodes, one.verdicts, strict=True):
        if isinstance(verdict, Illegal):
            waiver = ledger.waiver("unsupported", name, node.operator, node.where)
            if waiver is not None:
                passed.setdefault((waiver, node.operator), []).append(node)
    if not passed:
        return one
    for (_, operator), nodes in passed.items():
        verdict = one.verdicts[nodes[0].index]
        assert isinstance(verdict, Illegal)
        place = place_of(one, nodes[0], verdict.reasons)
        ledger.passed.add((name, operator))
        ledger.ask("unsupported", name)
        text = f"{operator} does not run on {target.name}, {counted(len(nodes), 'node')}"
        ledger.add("unsupported", name, text, place.fix, place, operator)
    indices = {node.index for nodes in passed.values() for node in nodes}
    verdicts = tuple(
        Legal(verdict.doubts) if node.index in indices else verdict
        for node, verdict in zip(one.graph.nodes, one.verdicts, strict=True)
    )
    refused = refusal(verdicts)
    supported = [refused is None and not isinstance(verdict, Illegal) for verdict in verdicts]
    how = target.runtimes[one.graph.format].partition
    return replace(one, verdicts=verdicts, refused=refused, cut=cut(one.graph, supported, how))


def _graphs(now: Mapping[str, GraphFigures], before: Mapping[str, GraphFigures], ledger: Ledger) -> None:
    """Ask whether the graphs are those of the baseline."""
    for name in (*now, *(name for name in before if name not in now)):
        ledger.ask("graphs", name)
        if name not in before:
            ledger.add("graphs", name, "the baseline has no such graph", UPDATE)
        elif name not in now:
            ledger.add("graphs", name, "the graph is gone; the baseline has it", UPDATE)


def _notes(mine: Sequence[Waiver], ledger: Ledger, today: date) -> tuple[str, ...]:
    """Return what is to be told of waivers: those without use, and those that end soon."""
    unused = [f"{one} is not used: remove it" for one in mine if one not in ledger.used]
    soon = [
        f"{one} ends on {one.expires}, in {counted((one.expires - today).days, 'day')}"
        for one in mine
        if one in ledger.used and not one.expired(today) and (one.expires - today).days <= SOON_DAYS
    ]
    return (*unused, *soon)
