"""Which operator types to give up, one by one, until a budget is kept; and what each costs, measured in ONNX Runtime."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import onnx

from m4c.errors import UsageError
from m4c.operator_reports.coverage import GraphOperators, OperatorUse, union
from m4c.operator_reports.substitutes import SUBSTITUTES, Array, Substitute

OPSET = 20
"""Of the small graphs."""

RUNS = 15
"""How often each is timed; before and after run in turns."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rewrite, the uses of what it gives up, and how many types are left after it."""

    substitute: Substitute
    uses: tuple[OperatorUse, ...]
    left: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a budget is kept, or how near it comes; within it, the one step that would be next."""

    budget: int
    types: int
    steps: tuple[Step, ...]
    kept: tuple[str, ...]
    """The types after all steps."""

    @property
    def exceeded(self) -> bool:
        """Whether there are more types than the budget."""
        return self.types > self.budget

    @property
    def reachable(self) -> bool:
        """Whether the rewrites lead into the budget."""
        return len(self.kept) <= self.budget


@dataclass(frozen=True, slots=True)
class Price:
    """What a rewrite costs on its small graph."""

    error: float
    """The largest difference, as a share of the largest value."""
    time: float
    """How many times as long it takes."""


def planned(graphs: Sequence[GraphOperators], budget: int) -> Plan:
    """Return which types ``graphs`` give up to have no more than ``budget``: the least used first, by graphs and then nodes.

    A rewrite may use types that were given up before, which are rewritten in turn, but never what it gives up.

    Raises:
        UsageError: if they are no ONNX graphs.
    """
    if any(graph.format != "onnx" for graph in graphs):
        raise UsageError("rewrites are known of ONNX operators alone", fix="give a preset or ONNX files")
    uses = {use.operator: use for use in union(graphs)}
    chosen: dict[str, Substitute] = {}
    steps: list[Step] = []
    while len(uses) - len(chosen) > budget or not steps:
        found = _next(uses, chosen)
        if found is None:
            break
        chosen |= dict.fromkeys(found.gives, found)
        gone = tuple(uses[operator] for operator in found.gives)
        steps.append(Step(found, gone, len(uses) - len(chosen)))
    return Plan(budget, len(uses), tuple(steps), tuple(sorted(uses.keys() - chosen.keys())))


def _next(uses: Mapping[str, OperatorUse], chosen: Mapping[str, Substitute]) -> Substitute | None:
    """Return the rewrite of the least used type that has one."""
    rarest = sorted(uses.values(), key=lambda use: (use.graphs, use.nodes, use.operator))
    for use in rarest:
        for one in SUBSTITUTES:
            if use.operator in one.gives and use.operator not in chosen and _fits(one, uses, chosen):
                return one
    return None


def _fits(one: Substitute, uses: Mapping[str, OperatorUse], chosen: Mapping[str, Substitute]) -> bool:
    """Return whether a rewrite brings no new type, and what it gives up goes for good."""
    if not uses.keys() >= {*one.gives, *one.into} or len({uses[name].nodes for name in one.gives}) > 1:
        return False
    return not set(one.gives) & _written(one, chosen)


def _written(one: Substitute, chosen: Mapping[str, Substitute]) -> set[str]:
    """Return all types that a rewrite needs, those of rewrites of what it uses included."""
    found: set[str] = set()
    waiting = list(one.into)
    while waiting:
        operator = waiting.pop()
        if operator not in found:
            found.add(operator)
            waiting += chosen[operator].into if operator in chosen else ()
    return found


def price(one: Substitute, seed: int = 0) -> Price:
    """Return what a rewrite costs, computed in float32 on one thread, every node as it is written."""
    x = one.x(np.random.default_rng(seed))
    before, after = (_session(nodes, one, x) for nodes in (one.before, one.after))
    (wanted,), (made,) = (session.run(None, {"x": x}) for session in (before, after))
    error = float(np.abs(made - wanted).max() / np.abs(wanted).max())
    taken: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for session, times in zip((before, after), taken, strict=True):
            start = time.perf_counter()
            session.run(None, {"x": x})
            times.append(time.perf_counter() - start)
    return Price(error, median(taken[1]) / median(taken[0]))


def nodes_of(text: str) -> list[onnx.NodeProto]:
    """Return the nodes of a small graph."""
    return [onnx.parser.parse_node(line) for line in text.splitlines()]


def _session(text: str, one: Substitute, x: Array) -> Any:
    """Return a session of a small graph that leaves its nodes alone."""
    import onnxruntime

    nodes = nodes_of(text)
    read = {name for node in nodes for name in node.input}
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in one.constants().items()
        if name in read
    ]
    given = onnx.helper.make_tensor_value_info(
        "x", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape)
    )
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "small", [given], [made], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
