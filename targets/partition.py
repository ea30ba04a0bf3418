"""How runtimes cut a graph: which nodes run on the target together, from the verdicts on each.

Only a tensor that a node makes is an edge; graph inputs, constants and absent inputs are always there. ``eligible`` partitions
are those before a runtime's cap, ``delegated`` ones after it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from m4c.targets.rules import Partitioning
from m4c.targets.view import Graph, Node, Tensor, consumers

Edge = tuple[int, int]
"""Two nodes, the second of which must not run before the first."""

Group = tuple[int, ...]
"""The indices of some nodes, ascending."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Nodes that run on the target together, and what crosses their border."""

    nodes: Group
    inputs: tuple[Tensor, ...]
    """The tensors that it reads and does not make, constants apart."""
    outputs: tuple[Tensor, ...]
    """The tensors that it makes, and a node outside or the caller reads."""

    @property
    def bytes(self) -> int:
        """How much crosses the border in a call; a tensor of changing size counts as none."""
        return sum(tensor.bytes or 0 for tensor in (*self.inputs, *self.outputs))


@dataclass(frozen=True, slots=True)
class Cut:
    """A graph cut for a runtime."""

    eligible: tuple[Partition, ...]
    delegated: tuple[Partition, ...]
    closed: Group | None = None
    """Where the runtime takes one prefix: the supported nodes that depend on no unsupported one, an upper figure."""

    @property
    def nodes(self) -> frozenset[int]:
        """Every node that runs on the target."""
        return frozenset(index for partition in self.delegated for index in partition.nodes)


def cut(graph: Graph, supported: Sequence[bool], how: Partitioning) -> Cut:
    """Cut ``graph``, of whose nodes ``supported`` tells which may run on the target, as a runtime does it."""
    eligible = tuple(bordered(graph, group) for group in CUTTERS[how.algorithm](graph.nodes, supported))
    kept = eligible
    if how.max_partitions is not None or how.min_nodes:
        # Those of one size are told apart by nothing: a runtime may take another of them.
        largest = sorted(eligible, key=lambda partition: -len(partition.nodes))[: how.max_partitions]
        taken = [partition for partition in largest if len(partition.nodes) >= how.min_nodes]
        kept = tuple(partition for partition in eligible if partition in taken)
    return Cut(eligible, kept, closed(graph.nodes, supported) if how.algorithm == "prefix" else None)


def epochs(nodes: Sequence[Node], supported: Sequence[bool], control: Sequence[Edge] = ()) -> list[Group]:
    """Return the greedy epochs of TFLite's delegates: all that is ready of one kind joins, at once, until nothing does.

    Branches that are not connected share an epoch. ``control`` are edges beside those of tensors.
    """
    made = {tensor for node in nodes for tensor in node.outputs}
    after: dict[int, set[int]] = {}
    for first, second in control or _effects(nodes):
        after.setdefault(second, set()).add(first)
    available: set[Tensor] = set()
    assigned: set[int] = set()
    found: list[Group] = []
    while len(assigned) < len(nodes):
        kind: bool | None = None
        epoch: list[int] = []
        grown = True
        while grown:
            grown = False
            for i, node in enumerate(nodes):
                ready = i not in assigned and after.get(i, set()) <= assigned
                if not ready or any(t in made and t not in available for t in node.inputs if t is not None):
                    continue
                kind = supported[i] if kind is None else kind
                if supported[i] == kind:
                    epoch.append(i)
                    assigned.add(i)
                    available.update(node.outputs)
                    grown = True
        if not epoch:
            raise ValueError("the graph has a circle")
        if kind:
            found.append(tuple(sorted(epoch)))
    return found


EFFECTS = frozenset({"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "IF", "WHILE"})
"""Operators of TFLite with effects beside their outputs: they keep their order."""


def _effects(nodes: Sequence[Node]) -> list[Edge]:
    """Return the chain through the nodes with side effects."""
    chain = [i for i, node in enumerate(nodes) if node.operator in EFFECTS]
    return list(pairwise(chain))


def runs(nodes: Sequence[Node], supported: Sequence[bool]) -> list[Group]:
    """Return the runs of supported nodes in execution order, as LiteRT's NPU plugins take them."""
    found: list[list[int]] = []
    for i in range(len(nodes)):
        if not supported[i]:
            continue
        if found and found[-1][-1] == i - 1:
            found[-1].append(i)
        else:
            found.append([i])
    return [tuple(run) for run in found]


def prefix(nodes: Sequence[Node], supported: Sequence[bool]) -> list[Group]:
    """Return the nodes before the first unsupported one in execution order: the one sub-graph that the Edge TPU takes."""
    stop = next((i for i in range(len(nodes)) if not supported[i]), len(nodes))
    return [tuple(range(stop))] if stop else []


def closed(nodes: Sequence[Node], supported: Sequence[bool]) -> Group:
    """Return the supported nodes whose producers are all among them."""
    made = {tensor for node in nodes for tensor in node.outputs}
    inside: set[Tensor] = set()
    found = []
    for i, node in enumerate(nodes):
        if supported[i] and all(t not in made or t in inside for t in node.inputs if t is not None):
            found.append(i)
            inside.update(node.outputs)
    return tuple(found)


def units(nodes: Sequence[Node]) -> list[Group]:
    """Return ONNX Runtime's node units: an operator with the DequantizeLinear before and the QuantizeLinear behind it.

    A node that belongs to no such group is a unit by itself.
    """
    readers, makers = consumers(nodes), {t: i for i, node in enumerate(nodes) for t in node.outputs}
    place = {node: i for i, node in enumerate(nodes)}
    owner: dict[int, int] = {}
    for i, node in enumerate(nodes):
        if node.operator in ("DequantizeLinear", "QuantizeLinear"):
            continue
        before = [makers[t] for t in node.inputs if t is not None and t in makers]
        before = [
            d
            for d in before
            if nodes[d].operator == "DequantizeLinear" and readers[nodes[d].outputs[0]] == [node]
        ]
        after = [place[reader] for t in node.outputs for reader in readers.get(t, [])]
        if before and after and all(nodes[q].operator == "QuantizeLinear" for q in after):
            owner.update(dict.fromkeys((*before, i, *after), i))
    groups: dict[int, list[int]] = {}
    for i in range(len(nodes)):
        groups.setdefault(owner.get(i, i), []).append(i)
    return [tuple(group) for group in groups.values()]


def waves(nodes: Sequence[Node], supported: Sequence[bool]) -> list[Group]:
    """Return ONNX Runtime's partitions: node units in topological order, an unsupported one on the border left for later."""
    groups = _in_order(nodes, units(nodes))
    of = {i: unit for unit, group in enumerate(groups) for i in group}
    following, missing = _unit_edges(nodes, of, len(groups))
    good = [all(supported[i] for i in group) for group in groups]
    ready = deque(unit for unit in range(len(groups)) if not missing[unit])
    later: deque[int] = deque()
    border: set[int] = set()
    group: list[int] = []
    found: list[Group] = []
    while ready or later:
        if not ready:
            if group:
                found.append(tuple(sorted(i for unit in group for i in groups[unit])))
            group, border, ready, later = [], set(), later, deque()
            continue
        unit = ready.popleft()
        if not good[unit] and unit in border:
            later.append(unit)
            continue
        if good[unit]:
            group.append(unit)
            border.discard(unit)
            border.update(following[unit])
        for other in following[unit]:
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    if group:
        found.append(tuple(sorted(i for unit in group for i in groups[unit])))
    return [one for one in found if not _alone(nodes, one)]


def _alone(nodes: Sequence[Node], group: Group) -> bool:
    """Return whether a partition is one lone conversion, which is dropped."""
    return len(group) == 1 and nodes[group[0]].operator in ("QuantizeLinear", "DequantizeLinear")


def _in_order(nodes: Sequence[Node], groups: Sequence[Group]) -> list[Group]:
    """Return units by the place of the node that they are named after: the one that is no conversion."""
    conversions = ("QuantizeLinear", "DequantizeLinear")
    return sorted(
        groups, key=lambda group: next((i for i in group if nodes[i].operator not in conversions), group[0])
    )


def _unit_edges(nodes: Sequence[Node], of: dict[int, int], count: int) -> tuple[list[list[int]], list[int]]:
    """Return the units that read from each, and how many edges lead into each."""
    makers = {t: of[i] for i, node in enumerate(nodes) for t in node.outputs}
    following: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for i, node in enumerate(nodes):
        for tensor in node.inputs:
            if tensor is not None and tensor in makers and makers[tensor] != of[i]:
                following[makers[tensor]].append(of[i])
                missing[of[i]] += 1
    return following, missing


def bordered(graph: Graph, group: Group) -> Partition:
    """Return a partition with what crosses its border."""
    inside = [graph.nodes[i] for i in group]
    made = dict.fromkeys(t for node in inside for t in node.outputs)
    read = dict.fromkeys(t for node in inside for t in node.inputs if t is not None and not t.constant)
    members = set(group)
    outside = {
        t for node in graph.nodes if node.index not in members for t in node.inputs if t is not None
    } | set(graph.outputs)
    return Partition(group, tuple(t for t in read if t not in made), tuple(t for t in made if t in outside))


CUTTERS: dict[str, Callable[[Sequence[Node], Sequence[bool]], list[Group]]] = {
    "epochs": epochs,
    "runs": runs,
    "prefix": prefix,
    "waves": waves,
}
"""Who cuts, by the algorithm that a profile names."""
