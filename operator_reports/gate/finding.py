"""What a gate found: one thing that is worse than it may be, where it is, and what mends it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from m4c.operator_reports.gate.figures import Figures
from m4c.operator_reports.gate.waivers import Waiver
from m4c.operator_reports.placement import Placement
from m4c.targets.legality import Reason
from m4c.targets.view import Node

UPDATE = "mend it, or accept it: --update-baseline, and let the change of the baseline be reviewed"
"""What there is to do about something that is only other than before."""


def counted(count: int, what: str) -> str:
    """Return a number and its noun."""
    return f"{count} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Place:
    """A node and why it is the one to look at."""

    operator: str
    index: int
    where: str
    """The module that it comes from, or its name."""
    reason: str
    fix: str
    graph: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold of a graph, or of the whole subject where ``graph`` is empty."""

    rule: str
    graph: str
    text: str
    fix: str
    place: Place | None = None
    operator: str = ""
    """The operator that it is about, as waivers name it."""
    waiver: Waiver | None = None
    """Who lets it pass."""
    expired: tuple[Waiver, ...] = ()
    """Waivers that would have, and are over."""

    @property
    def where(self) -> str:
        """The graph, the node and its module, as far as the finding has them."""
        if self.place is None:
            return self.graph
        return f"{self.place.graph}: #{self.place.index} {self.place.operator} ({self.place.where})"

    @property
    def message(self) -> str:
        """What is wrong, why, and which waivers are over."""
        over = [f"{waiver} expired on {waiver.expires}" for waiver in self.expired]
        why = [self.place.reason] if self.place and self.place.reason not in self.text else []
        return "; ".join((self.text, *why, *over))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a gate."""

    figures: Figures
    """As they are, without waivers: what ``--update-baseline`` writes."""
    findings: tuple[Finding, ...]
    """Failures and what waivers let pass, causes first."""
    checked: tuple[tuple[str, str], ...]
    """Every graph and rule that was looked at; the graph is empty where a rule is about all of them."""
    better: tuple[str, ...] = ()
    """What is better than the baseline."""
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What fails the gate."""
        return tuple(one for one in self.findings if one.waiver is None)

    @property
    def waived(self) -> tuple[Finding, ...]:
        """What waivers let pass."""
        return tuple(one for one in self.findings if one.waiver is not None)


@dataclass(slots=True)
class Ledger:
    """What is being found, while rules are asked; it knows the waivers and which of them were of use."""

    active: Sequence[Waiver]
    expired: Sequence[Waiver]
    findings: list[Finding] = field(default_factory=list)
    checked: dict[tuple[str, str], None] = field(default_factory=dict)
    used: set[Waiver] = field(default_factory=set)
    passed: set[tuple[str, str]] = field(default_factory=set)
    """Graphs and operators of which nodes count as if they ran."""
    better: list[str] = field(default_factory=list)
    """What is better than the baseline, in words."""

    def ask(self, rule: str, graph: str) -> None:
        """Remember that a rule was asked of a graph."""
        self.checked[graph, rule] = None

    def waiver(self, rule: str, graph: str, operator: str = "", node: str = "") -> Waiver | None:
        """Return who lets a finding pass, if anyone does."""
        found = next((one for one in self.active if one.covers(rule, graph, operator, node)), None)
        if found is not None:
            self.used.add(found)
        return found

    def over(self, rule: str, graph: str, operator: str = "", node: str = "") -> tuple[Waiver, ...]:
        """Return the expired waivers of a finding."""
        found = tuple(one for one in self.expired if one.covers(rule, graph, operator, node))
        self.used.update(found)
        return found

    def add(
        self, rule: str, graph: str, text: str, fix: str, place: Place | None = None, operator: str = ""
    ) -> None:
        """Put down what was found; a waiver of its rule, graph, operator and module lets it pass."""
        node = place.where if place else ""
        self.findings.append(
            Finding(
                rule,
                graph,
                text,
                fix,
                place,
                operator,
                self.waiver(rule, graph, operator, node),
                self.over(rule, graph, operator, node),
            )
        )


def place_of(one: Placement, node: Node, reasons: Sequence[Reason]) -> Place:
    """Return a node that does not run, with the first of its reasons."""
    return Place(node.operator, node.index, node.where, reasons[0].text, reasons[0].fix, one.graph.name)


def first_break(one: Placement) -> Place | None:
    """Return the first node that stays off the target."""
    found = one.first_break
    return None if found is None else place_of(one, found.node, found.reasons)
