"""Where the nodes of a graph run on a target: coverage, partitions, the first break and every reason.

The figures come from a profile's rules alone, level ``table``: an upper bound of what the target's own compiler takes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from m4c.operator_reports.cost import Cost, cost, parameter_bytes
from m4c.targets.legality import Illegal, Reason, Verdict, refusal, runtime_of, verdicts
from m4c.targets.partition import Cut, Partition, cut
from m4c.targets.profile import Target
from m4c.targets.view import Graph, Node

LEVELS = {
    "compiled": "the target's own compiler took this graph",
    "partitioned": "the vendor's own code chose the nodes, nothing was compiled",
    "table": "upper bound: lists and documented limits were applied, no compiler of the target was asked",
}
"""How good the evidence of a report is, best first."""


@dataclass(frozen=True, slots=True)
class Break:
    """A node that stays off the target."""

    node: Node
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason as it is said of the first of ``count`` nodes of one operator."""

    operator: str
    count: int
    where: str
    """The first node that it is said of."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Placement:
    """A graph on a target."""

    graph: Graph
    target: Target
    runtime: str
    verdicts: tuple[Verdict, ...]
    cut: Cut
    refused: Reason | None
    """Why the target takes nothing of the model, if it does."""
    assumed: str = ""
    """The precision that the graph was judged as if it had."""
    evidence: str = "table"

    @property
    def name(self) -> str:
        """The name of the graph."""
        return self.graph.name

    @property
    def legal(self) -> int:
        """How many nodes run on the target if each is asked by itself."""
        return sum(not isinstance(verdict, Illegal) for verdict in self.verdicts)

    @property
    def allowed(self) -> Cost:
        """What the nodes cost that run on the target if each is asked by itself."""
        judged = zip(self.graph.nodes, self.verdicts, strict=True)
        return cost(node for node, verdict in judged if not isinstance(verdict, Illegal))

    @property
    def delegated(self) -> tuple[Node, ...]:
        """The nodes that run there."""
        taken = self.cut.nodes
        return tuple(node for node in self.graph.nodes if node.index in taken)

    @property
    def whole(self) -> Cost:
        """What the graph costs."""
        return cost(self.graph.nodes)

    @property
    def taken(self) -> Cost:
        """What the nodes that run on the target cost."""
        return cost(self.delegated)

    @property
    def outcome(self) -> str:
        """``whole``, ``split`` or ``refused``."""
        if not self.cut.delegated:
            return "refused"
        return "whole" if len(self.delegated) == len(self.graph.nodes) else "split"

    @property
    def crossing(self) -> int:
        """How many bytes cross the borders of partitions in a call."""
        return sum(partition.bytes for partition in self.cut.delegated)

    @property
    def first_break(self) -> Break | None:
        """The first node in execution order that stays off the target; legal nodes of partitions not taken are none."""
        for node, verdict in zip(self.graph.nodes, self.verdicts, strict=True):
            if isinstance(verdict, Illegal):
                return Break(node, verdict.reasons)
        return None

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Every reason, nodes of one operator and one fix together, the most frequent first."""
        return _together(
            (node, reason)
            for node, verdict in zip(self.graph.nodes, self.verdicts, strict=True)
            if isinstance(verdict, Illegal)
            for reason in verdict.reasons
        )

    @property
    def doubts(self) -> tuple[Cause, ...]:
        """What is said of nodes and cannot be checked, likewise."""
        return _together(
            (node, reason)
            for node, verdict in zip(self.graph.nodes, self.verdicts, strict=True)
            for reason in verdict.doubts
        )

    @property
    def streamed_bytes(self) -> int | None:
        """How many bytes of parameters do not fit on the chip and are sent on every call, None if that is not known."""
        figures = self.target.figures
        if figures is None or figures.parameter_bytes is None:
            return None
        return max(0, parameter_bytes(self.delegated) - figures.parameter_bytes)

    @property
    def seconds(self) -> float | None:
        """The least time that the hardware needs for what it takes, None if no figures are known."""
        figures = self.target.figures
        return self.taken.seconds(figures, self.streamed_bytes) if figures else None


@dataclass(frozen=True, slots=True)
class NotConverted:
    """A graph of which there is nothing in a format of the target."""

    name: str
    why: str
    fix: str
    by_host: bool = False
    """Whether it is the host's by design: a look-up of rows, say."""


Judged = Placement | NotConverted
"""What a report says of a graph."""


def place(graph: Graph, target: Target, assumed: str = "") -> Placement:
    """Return where the nodes of ``graph`` run on ``target``.

    Raises:
        UsageError: if the target takes no graphs of that format.
    """
    runtime = runtime_of(target, graph.format)
    judged = verdicts(graph, target)
    refused = refusal(judged)
    supported = [refused is None and not isinstance(verdict, Illegal) for verdict in judged]
    return Placement(
        graph, target, runtime.name, judged, cut(graph, supported, runtime.partition), refused, assumed
    )


def _together(said: Iterable[tuple[Node, Reason]]) -> tuple[Cause, ...]:
    """Return reasons grouped by operator and fix."""
    groups: dict[tuple[str, str, str], list[tuple[Node, Reason]]] = {}
    for node, reason in said:
        groups.setdefault((node.operator, reason.fix, reason.source), []).append((node, reason))
    made = [
        Cause(operator, len({node for node, _ in found}), found[0][0].where, found[0][1])
        for (operator, _, _), found in groups.items()
    ]
    return tuple(sorted(made, key=lambda cause: -cause.count))


def largest(partitions: Sequence[Partition]) -> int:
    """Return the number of nodes of the largest partition, 0 if there is none."""
    return max((len(partition.nodes) for partition in partitions), default=0)
