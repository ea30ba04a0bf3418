"""Partitions of six small graphs whose answers were seen in real runtimes, and what holds of all graphs."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m4c.targets.legality import Legal, refusal, verdicts
from m4c.targets.partition import CUTTERS, closed, cut, epochs, runs, units, waves
from m4c.targets.profile import load_target
from m4c.targets.rules import Partitioning
from m4c.targets.view import Graph, Node, Tensor

GRAPHS = {
    "G1": ("0-x 1-0 2+1 3+2 4-1 5-4", "3 5"),
    "G2": ("A+x U-A B+x C+U,B", "C"),
    "G3": ("A+x U-A B+A,U", "B"),
    "G4": ("A1+x U1-A1 A2+x U2-A2 A3+x U3-A3", "U1 U2 U3"),
    "G5": ("A+x B+x U-A C+B D+U E+C,D", "E"),
    "G6": ("U1-x A+U1 U2-x B+U2 C+A,B U3-C D+U3,A", "D"),
}
"""Nodes as name, + supported or - unsupported, inputs, in execution order; x is the graph input. Then the outputs."""

GREEDY = {"G1": "23", "G2": "AB C", "G3": "A B", "G4": "A1A2A3", "G5": "ABC DE", "G6": "ABC D"}
"""Seen in XNNPACK (ai-edge-litert 2.3.0), and as ONNX Runtime's partitions in onnxruntime-qnn 2.7.0."""

RUNS = {"G1": "23", "G2": "A BC", "G3": "A B", "G4": "A1 A2 A3", "G5": "AB CDE", "G6": "A BC D"}
"""Seen in LiteRT's Intel plugin (ai-edge-litert 2.3.0)."""

LARGEST = {"G1": 2, "G2": 2, "G3": 1, "G4": 3, "G5": 3, "G6": 3}
"""Nodes that LiteRT's GPU delegate took."""

PREFIX = {"G1": 0, "G2": 1, "G3": 1, "G4": 1, "G5": 2, "G6": 0}
CLOSED = {"G1": "", "G2": "AB", "G3": "A", "G4": "A1A2A3", "G5": "ABC", "G6": ""}


def parsed(text: str, outputs: str) -> tuple[Graph, list[bool], list[str]]:
    """Return a graph, which of its nodes are supported, and their names."""
    x = Tensor("x", "float32", (4,))
    made, nodes, supported = {"x": x}, [], []
    for index, part in enumerate(text.split()):
        name, kind, inputs = (*part.partition("+"),) if "+" in part else (*part.partition("-"),)
        made[name] = Tensor(name, "float32", (4,))
        given = tuple(made[i] for i in inputs.split(","))
        nodes.append(Node(index, "ADD", "tflite", 1, given, (made[name],), where=name))
        supported.append(kind == "+")
    graph = Graph("g", "tflite", tuple(nodes), (x,), tuple(made[o] for o in outputs.split()))
    return graph, supported, [node.where for node in nodes]


def said(groups: list[tuple[int, ...]], names: list[str]) -> str:
    return " ".join("".join(names[i] for i in group) for group in groups)


@pytest.mark.parametrize("name", GRAPHS)
def test_known_answers(name: str) -> None:
    graph, supported, names = parsed(*GRAPHS[name])
    assert said(epochs(graph.nodes, supported), names) == GREEDY[name]
    assert said(waves(graph.nodes, supported), names) == GREEDY[name]
    assert said(runs(graph.nodes, supported), names) == RUNS[name]
    gpu = cut(graph, supported, Partitioning("epochs", 1, 0, "", "measured"))
    assert [len(p.nodes) for p in gpu.delegated] == [LARGEST[name]]
    assert len(gpu.eligible) == len(GREEDY[name].split())
    coral = cut(graph, supported, Partitioning("prefix", None, 0, "", "issue"))
    assert len(coral.nodes) == PREFIX[name]
    assert "".join(names[i] for i in coral.closed or ()) == CLOSED[name]


def test_a_control_edge_moves_the_cut() -> None:
    graph, supported, names = parsed(*GRAPHS["G1"])
    every = [not s for s in supported]
    assert said(epochs(graph.nodes, every), names) == "0145"
    assert said(epochs(graph.nodes, every, [(3, 4)]), names) == "01 45"


def test_what_crosses_a_border() -> None:
    graph, supported, _ = parsed(*GRAPHS["G5"])
    first, second = cut(graph, supported, Partitioning("epochs", None, 0, "", "measured")).eligible
    assert ([t.name for t in first.inputs], [t.name for t in first.outputs]) == (["x"], ["A", "C"])
    assert ([t.name for t in second.inputs], [t.name for t in second.outputs]) == (["U", "C"], ["E"])
    assert (first.bytes, second.bytes) == (48, 48)


def test_small_partitions_are_left() -> None:
    graph, supported, _ = parsed(*GRAPHS["G6"])
    found = cut(graph, supported, Partitioning("epochs", None, 2, "", "measured"))
    assert ([len(p.nodes) for p in found.eligible], [len(p.nodes) for p in found.delegated]) == ([3, 1], [3])


def quantized() -> list[Node]:
    """Return x → Q → DQ → Erf → Q → DQ → Relu → Q → DQ."""
    before, nodes = Tensor("x", "float32", (4,)), []
    for index, operator in enumerate(["Q", "D", "Erf", "Q", "D", "Relu", "Q", "D"]):
        after = Tensor(f"{index}", "float32", (4,))
        full = {"Q": "QuantizeLinear", "D": "DequantizeLinear"}.get(operator, operator)
        nodes.append(Node(index, full, "onnx", 18, (before,), (after,)))
        before = after
    return nodes


def test_node_units_take_their_conversions_along() -> None:
    nodes = quantized()
    assert units(nodes) == [(0,), (1, 2, 3), (4, 5, 6), (7,)]
    # Conversions are supported; Erf keeps its own on the CPU. The lone Q in front is dropped.
    assert waves(nodes, [node.operator != "Erf" for node in nodes]) == [(4, 5, 6, 7)]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, list[bool]]:
    """Draw a graph without circles, and which of its nodes are supported."""
    made = [Tensor("x", "float32", (2,))]
    nodes = []
    for index in range(draw(st.integers(1, 14))):
        given = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
        made.append(Tensor(str(index), "float32", (2,)))
        nodes.append(Node(index, "ADD", "tflite", 1, tuple(given), (made[-1],)))
    supported = draw(st.lists(st.booleans(), min_size=len(nodes), max_size=len(nodes)))
    return Graph("g", "tflite", tuple(nodes), (made[0],), (made[-1],)), supported


def reached(nodes: tuple[Node, ...], start: set[int]) -> set[int]:
    """Return every node that depends on one of ``start``."""
    found = set(start)
    for i, node in enumerate(nodes):
        makers = {j for j in found if nodes[j].outputs[0] in node.inputs}
        if makers:
            found.add(i)
    return found


@pytest.mark.parametrize("algorithm", CUTTERS)
@given(drawn=graphs())
@settings(deadline=None, max_examples=60)
def test_what_holds_of_every_cut(algorithm: str, drawn: tuple[Graph, list[bool]]) -> None:
    graph, supported = drawn
    groups = CUTTERS[algorithm](graph.nodes, supported)
    flat = [i for group in groups for i in group]
    assert len(flat) == len(set(flat))
    assert all(supported[i] for i in flat)
    if algorithm != "prefix":
        assert set(flat) == {i for i, good in enumerate(supported) if good}
    for group in groups:
        # Convex: no path leaves a partition and comes back.
        outside = reached(graph.nodes, set(group)) - set(group)
        left = {i for i in outside if any(graph.nodes[j].outputs[0] in graph.nodes[i].inputs for j in group)}
        assert not reached(graph.nodes, left) & set(group)


@given(drawn=graphs())
@settings(deadline=None, max_examples=60)
def test_a_closed_set_depends_on_nothing_outside(drawn: tuple[Graph, list[bool]]) -> None:
    graph, supported = drawn
    found = set(closed(graph.nodes, supported))
    assert found >= {i for group in CUTTERS["prefix"](graph.nodes, supported) for i in group}
    for i in found:
        makers = {j for j, node in enumerate(graph.nodes) if node.outputs[0] in graph.nodes[i].inputs}
        assert makers <= found


def transcriber() -> Graph:
    """Return basic-pitch's nmp.tflite as it is stored in data/, without its weights."""
    told = json.loads(Path("tests/targets/data/nmp.json").read_text("utf-8"))
    tensors = [
        Tensor(str(i), dtype, tuple(s if s >= 0 else "batch" for s in sizes), bool(constant))
        for i, (dtype, sizes, constant) in enumerate(told["tensors"])
    ]
    nodes = tuple(
        Node(
            i,
            operator,
            "tflite",
            1,
            tuple(tensors[t] if t >= 0 else None for t in inputs),
            tuple(tensors[t] for t in outputs),
        )
        for i, (operator, inputs, outputs) in enumerate(told["nodes"])
    )
    outputs = tuple(tensors[t] for t in told["outputs"])
    return Graph("nmp", "tflite", nodes, tuple(tensors[t] for t in told["inputs"]), outputs)


REFUSED_BY_INTEL = {"NEG", "SHAPE", "REDUCE_MIN"}


@pytest.mark.parametrize(
    ("runtime", "supported", "partitions", "otherwise"),
    [
        ("XNNPACK, ai-edge-litert 2.3.0", 164, 17, 34),
        ("LiteRT's Intel plugin", 208, 15, 5),
        ("LiteRT's Qualcomm plugin for SM8650", 195, 24, 15),
    ],
)
def test_partitions_of_a_real_model_as_runtimes_make_them(
    runtime: str, supported: int, partitions: int, otherwise: int
) -> None:
    graph = transcriber()
    assert len(graph.nodes) == 222
    if "XNNPACK" in runtime:
        target = load_target("xnnpack")
        good = [isinstance(verdict, Legal) for verdict in verdicts(graph, target)]
        as_is, other = CUTTERS["epochs"], CUTTERS["runs"]
    elif "Intel" in runtime:
        good = [node.operator not in REFUSED_BY_INTEL for node in graph.nodes]
        as_is, other = CUTTERS["runs"], CUTTERS["epochs"]
    else:
        judged = zip(graph.nodes, verdicts(graph, load_target("qualcomm-htp")), strict=True)
        # The list alone takes 199: QNN's validation refuses STRIDED_SLICE of rank 1.
        good = [
            isinstance(v, Legal) and not (v.doubts and len(node.outputs[0].shape or ()) == 0)
            for node, v in judged
        ]
        as_is, other = CUTTERS["runs"], CUTTERS["epochs"]
    assert sum(good) == supported
    assert len(as_is(graph.nodes, good)) == partitions
    assert len(other(graph.nodes, good)) == otherwise


def test_the_lists_of_a_real_model() -> None:
    graph = transcriber()
    for name, supported in (("qualcomm-htp", 199), ("google-tensor", 218)):
        assert sum(isinstance(v, Legal) for v in verdicts(graph, load_target(name))) == supported
    assert refusal(verdicts(graph, load_target("gpu"))) is not None, "its batch is dynamic"
