"""fuse-attention: LLaMA's decoder computes the same, with one operator a layer; what only looks like it stays."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from m4c.capture import bind, capture
from m4c.checkpoints.random import random_weights
from m4c.model import fingerprint, operator_counts
from m4c.models.graph import Graph, Submodel
from m4c.models.llama import build
from m4c.models.llama_sizes import LlamaSizes
from m4c.numerics import difference
from m4c.passes import canonical, fuse_attention
from m4c.passes.fuse_attention import FuseAttention
from m4c.passes.properties import typed
from m4c.pipeline import Pipeline, Report
from m4c.skeleton import skeleton
from m4c.weights import array, constant, is_weight, lazy
from tests.integer_graphs import graph as text_graph
from tests.integer_graphs import run

CLOSE = 2e-5
FUSE = Pipeline((FuseAttention(),), given=(typed,))
FUSED = "com.microsoft::GroupQueryAttention"

PREFILL, DECODE, CONTINUED = (0, 7), (5, 1), (5, 3)
"""Past steps and new ones."""

TINY = LlamaSizes(64, 64, 96, layers=1, heads=4, kv_heads=4, head_dim=16, max_positions=32)
VARIANTS = {
    "multi-head": TINY,
    "grouped": replace(TINY, layers=2, kv_heads=2, attention_bias=True),
    "multi-query": replace(TINY, kv_heads=1),
}


@cache
def submodel(variant: str) -> Submodel:
    with skeleton():
        return build("backbone", VARIANTS[variant])


def decoder(variant: str) -> Graph:
    return next(graph for graph in submodel(variant).graphs if graph.name == "backbone/decoder")


@cache
def model(variant: str) -> ir.Model:
    """Return the canonical graph with random weights."""
    captured = capture(decoder(variant))
    bind(captured, random_weights(submodel(variant).source, 0))
    return canonical().run(captured)[0]


def fused(source: ir.Model) -> tuple[ir.Model, Report]:
    """Return the model after the pass; the input is untouched and a second run changes nothing."""
    before = fingerprint(source)
    after, (report,) = FUSE.run(source)
    assert fingerprint(source) == before
    assert bool(report.changes) == (fingerprint(after) != before)
    again, (second,) = FUSE.run(after)
    assert fingerprint(again) == fingerprint(after)
    assert not second.changes
    assert interface(after) == interface(source)
    return after, report


def interface(source: ir.Model) -> list[str]:
    return [f"{v.name} {v.dtype} {v.shape}" for v in (*source.graph.inputs, *source.graph.outputs)]


def worst(source: ir.Model, after: ir.Model, graph: Graph, past: int, sequence: int, batch: int = 1) -> float:
    """Return the largest relative error of any output of one call."""
    sizes = {"batch": batch, "past": past, "sequence": sequence}
    feeds = graph.sample(np.random.default_rng(1), sizes)
    pairs = zip(run(source, feeds), run(after, feeds), strict=True)
    return max(difference(expected, actual).max_relative for expected, actual in pairs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_numbers_stay(variant: str) -> None:
    after, report = fused(model(variant))
    assert not report.misses
    assert len(report.changes) == VARIANTS[variant].layers
    for past, sequence in (PREFILL, DECODE, CONTINUED):
        assert worst(model(variant), after, decoder(variant), past, sequence) < CLOSE


def test_what_is_left_of_two_layers() -> None:
    after, report = fused(model("grouped"))
    counts = operator_counts(after)
    assert counts[FUSED] == 2
    assert not {"Softmax", "Concat", "Reshape", "Transpose", "Slice"} & set(counts)
    assert [counts[kind] for kind in ("Shape", "Gather", "Cast", "Sub", "Expand")] == [1] * 5
    assert counts["MatMul"] == 2 * 7 + 1
    assert after.opset_imports["com.microsoft"] == 1
    assert {note.where.rsplit(".", 1)[-1] for note in report.changes} == {"self_attn"}
    assert "4 heads on 2" in report.changes[0].text
    names = set(after.graph.initializers)
    assert {"cos.half", "sin.half"} <= names
    assert not {"cos", "sin"} & names


def test_the_operator_says_what_the_graph_said() -> None:
    before = {value.name for node in model("grouped").graph for value in node.outputs}
    after, _ = fused(model("grouped"))
    node = next(node for node in after.graph if node.op_type == "GroupQueryAttention")
    assert {name: a.value for name, a in node.attributes.items()} == {
        "num_heads": 4,
        "kv_num_heads": 2,
        "scale": 0.25,
        "do_rotary": 1,
        "rotary_interleaved": 0,
    }
    inputs = [value.name for value in node.inputs if value is not None]
    assert inputs[3:5] == ["past_key_0", "past_value_0"]
    assert inputs[9:] == ["positions", "mask"]
    assert set(inputs[:3]) <= before
    assert [value.name for value in node.outputs[1:]] == ["present_key_0", "present_value_0"]
    assert node.outputs[0].name in before


def sealed(name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor like another that raises when it is read."""

    def read() -> np.ndarray:
        raise AssertionError(f"{name} was read")

    return lazy(name, tensor.dtype, tensor.shape.numpy(), read)


def test_no_weight_is_read() -> None:
    source = model("grouped").clone()
    for name, value in source.graph.initializers.items():
        if is_weight(value) and value.const_value is not None:
            value.const_value = sealed(name, value.const_value)
    after, report = fused(source)
    assert len(report.changes) == 2
    assert operator_counts(after)[FUSED] == 2


def test_a_table_is_halved_as_the_operator_reads_it() -> None:
    tables = {name: array_of(model("multi-head"), name) for name in ("cos", "sin")}
    after, _ = fused(model("multi-head"))
    np.testing.assert_array_equal(array_of(after, "cos.half"), tables["cos"][:, :8])
    np.testing.assert_array_equal(array_of(after, "sin.half"), tables["sin"][:, 8:])


def array_of(source: ir.Model, name: str) -> np.ndarray:
    tensor = source.graph.initializers[name].const_value
    assert tensor is not None
    return array(tensor)


def test_one_step_of_a_batch() -> None:
    stated = replace(
        decoder("grouped"), sizes={"batch": 2, "sequence": 1, "past": 5}, dynamic=frozenset({"batch", "past"})
    )
    captured = capture(stated)
    bind(captured, random_weights(submodel("grouped").source, 0))
    source, _ = canonical().run(captured)
    after, report = fused(source)
    assert len(report.changes) == 2
    assert worst(source, after, stated, 5, 1, batch=3) < CLOSE


Edit = Callable[[ir.Graph], None]


def edited(edit: Edit, variant: str = "multi-head") -> ir.Model:
    changed = model(variant).clone()
    edit(changed.graph)
    return changed


def node_of(graph: ir.Graph, op_type: str, index: int = 0) -> ir.Node:
    """Return a node by its type; a negative ``index`` counts from the end."""
    return [node for node in graph if node.op_type == op_type][index]


def softmax_of(graph: ir.Graph) -> tuple[ir.Node, ir.Node, ir.Node]:
    """Return the softmax, the addition of the mask and the product of queries and keys."""
    softmax = node_of(graph, "Softmax")
    added = made(softmax.inputs[0])
    return softmax, added, made(added.inputs[0])


def made(value: ir.Value | None) -> ir.Node:
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def before(node: ir.Node, op_type: str, operands: list[ir.Value | None], like: ir.Value | None) -> ir.Value:
    """Put a node before another and return its result, typed like another value."""
    assert like is not None
    new = ir.node(op_type, operands, name=f"new_{op_type}_{like.name}")
    new.outputs[0].name, new.outputs[0].type, new.outputs[0].shape = f"{new.name}.out", like.type, like.shape
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, new)
    return new.outputs[0]


def number(graph: ir.Graph, value: float) -> ir.Value:
    return constant(graph, f"number_{value}", np.array(value, np.float32))


def rescale(graph: ir.Graph, value: float) -> None:
    """Scale the queries by another factor."""
    scale = made(softmax_of(graph)[2].inputs[0])
    scale.replace_input_with(1, number(graph, value))


def without_scale(graph: ir.Graph) -> None:
    dot = softmax_of(graph)[2]
    scale = made(dot.inputs[0])
    dot.replace_input_with(0, scale.inputs[0])
    graph.remove(scale, safe=True)


def scaled_late(graph: ir.Graph) -> None:
    """Divide the scores too, and let the mask come first."""
    _, added, dot = softmax_of(graph)
    score = before(added, "Div", [dot.outputs[0], number(graph, 3.0)], dot.outputs[0])
    mask = added.inputs[1]
    added.replace_input_with(1, score)
    added.replace_input_with(0, mask)


def scaled_keys(graph: ir.Graph) -> None:
    dot = softmax_of(graph)[2]
    dot.replace_input_with(1, before(dot, "Mul", [number(graph, 0.3), dot.inputs[1]], dot.inputs[1]))


@pytest.mark.parametrize(
    ("edit", "scale"),
    [
        (lambda graph: rescale(graph, 0.7), np.float32(0.7)),
        (without_scale, 1.0),
        (scaled_late, np.float32(0.25 / 3)),
        (scaled_keys, np.float32(0.25 * float(np.float32(0.3)))),
    ],
)
def test_the_scale_is_that_of_the_graph(edit: Edit, scale: float) -> None:
    source = edited(edit)
    after, report = fused(source)
    assert report.changes
    assert node_of(after.graph, "GroupQueryAttention").attributes["scale"].value == pytest.approx(
        scale, rel=1e-7
    )
    assert worst(source, after, decoder("multi-head"), *CONTINUED) < CLOSE


def computed_inputs(graph: ir.Graph) -> None:
    """Compute mask and positions, with the mask first in its addition."""
    _, added, _ = softmax_of(graph)
    first = graph[0]
    mask, positions = graph.inputs[2], graph.inputs[1]
    half = before(first, "Mul", [mask, number(graph, 0.5)], mask)
    seen = before(first, "Neg", [positions], positions)
    turned = before(first, "Abs", [seen], positions)
    for use in list(positions.uses()):
        if use.node.op_type == "Gather":
            use.node.replace_input_with(1, turned)
    added.replace_input_with(1, added.inputs[0])
    added.replace_input_with(0, half)


def test_mask_and_positions_may_be_computed() -> None:
    source = edited(computed_inputs)
    after, report = fused(source)
    assert report.changes
    assert worst(source, after, decoder("multi-head"), *CONTINUED) < CLOSE
    assert worst(source, after, decoder("multi-head"), *PREFILL) < CLOSE


def attend_elsewhere(graph: ir.Graph) -> None:
    """Let the weights of the softmax be used once more."""
    softmax = softmax_of(graph)[0]
    read_again(graph, softmax.outputs[0])


def read_again(graph: ir.Graph, value: ir.Value | None) -> None:
    """Give ``value`` another reader, whose result is added to the hidden states as a zero."""
    assert value is not None
    last = graph[-1]
    dot = before(last, "ReduceSum", [value], value)
    dot.shape = ir.Shape([1] * len(value.shape or ()))
    none = before(last, "Mul", [dot, number(graph, 0.0)], dot)
    flat = before(last, "Reshape", [none, constant(graph, "one", np.array([1], np.int64))], none)
    flat.shape = ir.Shape([1])
    last.replace_input_with(0, before(last, "Add", [last.inputs[0], flat], last.inputs[0]))


def set_axis(op_type: str, index: int, axis: int) -> Edit:
    def edit(graph: ir.Graph) -> None:
        node_of(graph, op_type, index).attributes["axis"] = ir.AttrInt64("axis", axis)

    return edit


def turn(op_type: str, index: int, perm: tuple[int, ...]) -> Edit:
    def edit(graph: ir.Graph) -> None:
        node_of(graph, op_type, index).attributes["perm"] = ir.AttrInt64s("perm", perm)

    return edit


def other_table(graph: ir.Graph) -> None:
    """Turn by sines where cosines belong."""
    node_of(graph, "Gather", 0).replace_input_with(0, graph.initializers["sin"])


def lone_table(graph: ir.Graph) -> None:
    """Give the second half of the cosines other values."""
    values = array_in(graph, "cos").copy()
    values[3, 9] += 1
    graph.initializers["cos"].const_value = ir.tensor(values, name="cos")


def lazy_table(graph: ir.Graph) -> None:
    tensor = graph.initializers["sin"].const_value
    assert tensor is not None
    graph.initializers["sin"].const_value = sealed("sin", tensor)


def array_in(graph: ir.Graph, name: str) -> np.ndarray:
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    return array(tensor)


def unswapped(graph: ir.Graph) -> None:
    """Join the halves of the queries in their old order."""
    joined = node_of(graph, "Concat", 0)
    first, second = joined.inputs
    joined.replace_input_with(0, second)
    joined.replace_input_with(1, first)


def turned_the_other_way(graph: ir.Graph) -> None:
    """Exchange cosines and sines of the key alone."""
    adds = [made(value) for value in made(node_of(graph, "Concat", 2).inputs[1]).inputs]
    tables = [node.inputs[1] for node in adds]
    adds[0].replace_input_with(1, tables[1])
    adds[1].replace_input_with(1, tables[0])


def key_elsewhere(graph: ir.Graph) -> None:
    """Turn the key by the angles of other positions."""
    chosen = before(graph[0], "Abs", [graph.inputs[1]], graph.inputs[1])
    for product in [made(value) for value in made(node_of(graph, "Concat", 2).inputs[1]).inputs]:
        row = made(product.inputs[1])
        gather = made(row.inputs[0])
        rows = before(product, "Gather", [gather.inputs[0], chosen], gather.outputs[0])
        product.replace_input_with(1, before(product, "Reshape", [rows, row.inputs[1]], row.outputs[0]))


def other_positions(graph: ir.Graph) -> None:
    """Take the sines of other positions than the cosines."""
    gather = node_of(graph, "Gather", 1)
    gather.replace_input_with(1, before(gather, "Abs", [gather.inputs[1]], gather.inputs[1]))


def past_last(graph: ir.Graph) -> None:
    """Put the new values before the past ones."""
    grown = node_of(graph, "Concat", 3)
    first, second = grown.inputs
    grown.replace_input_with(0, second)
    grown.replace_input_with(1, first)


def unrotated_key(graph: ir.Graph) -> None:
    grown = node_of(graph, "Concat", 2)
    grown.replace_input_with(1, made(made(grown.inputs[1]).inputs[0]).inputs[0])


def scale_after_mask(graph: ir.Graph) -> None:
    """Scale the masked scores."""
    softmax, added, _ = softmax_of(graph)
    softmax.replace_input_with(
        0, before(softmax, "Mul", [added.outputs[0], number(graph, 0.5)], added.outputs[0])
    )


def subtract_mask(graph: ir.Graph) -> None:
    softmax, added, _ = softmax_of(graph)
    softmax.replace_input_with(0, before(softmax, "Sub", list(added.inputs), added.outputs[0]))


def unequal_mask(graph: ir.Graph) -> None:
    """Give one of the heads that share a key another mask."""
    repeated = next(n for n in graph if n.op_type == "Concat" and n.inputs[0] in graph.inputs[2:3])
    repeated.replace_input_with(1, before(repeated, "Abs", [repeated.inputs[1]], repeated.inputs[1]))


def wide_mask(graph: ir.Graph) -> None:
    graph.inputs[2].shape = ir.Shape([1, 1, 1, "sequence + past"])


def other_past(graph: ir.Graph) -> None:
    graph.inputs[4].shape = ir.Shape([1, 4, "elsewhere", 16])


def shared_cache(graph: ir.Graph) -> None:
    read_again(graph, node_of(graph, "Concat", 2).outputs[0])


def scaled_to_nothing(graph: ir.Graph) -> None:
    """Scale twice, by numbers whose product is 0 in float32."""
    rescale(graph, 1e-30)
    _, added, dot = softmax_of(graph)
    added.replace_input_with(0, before(added, "Mul", [dot.outputs[0], number(graph, 1e-30)], dot.outputs[0]))


def batched(graph: ir.Graph) -> None:
    """Call the batch dynamic."""
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(["batch", *value.shape[1:]])


NEAR: dict[str, tuple[Edit, str]] = {
    "is along axis 2, not axis 3": (set_axis("Softmax", 0, 2), "multi-head"),
    "the weights softmax has other uses": (attend_elsewhere, "multi-head"),
    "the keys present_key_0 have other uses": (shared_cache, "multi-head"),
    "the cache of the values is along axis 1": (set_axis("Concat", 3, 1), "multi-head"),
    "the cache of the keys is along axis 3": (set_axis("Concat", 2, 3), "multi-head"),
    "the swap of the query is along axis 2": (set_axis("Concat", 0, 2), "multi-head"),
    "the query is swapped by (0, 8) and (8, 16)": (unswapped, "multi-head"),
    "the key is transposed by (1, 2, 0, 3)": (turn("Transpose", 1, (1, 2, 0, 3)), "multi-head"),
    "the value is transposed by (2, 0, 1, 3)": (turn("Transpose", 2, (2, 0, 1, 3)), "multi-head"),
    "the keys are transposed by (0, 1, 2, 3)": (turn("Transpose", 3, (0, 1, 2, 3)), "multi-head"),
    "the result is transposed by (0, 1, 2, 3)": (turn("Transpose", 4, (0, 1, 2, 3)), "multi-head"),
    "the halves of sin differ": (other_table, "multi-head"),
    "the halves of cos differ": (lone_table, "multi-head"),
    "the table sin is not in memory": (lazy_table, "multi-head"),
    "the halves of sin differ by more than the sign": (turned_the_other_way, "multi-head"),
    "cosine and sine of the query are of different positions": (other_positions, "multi-head"),
    "query and key are turned by different angles": (key_elsewhere, "multi-head"),
    "the value past_value_0 comes from outside": (past_last, "multi-head"),
    "the key, which is to be rotary": (unrotated_key, "multi-head"),
    "what the softmax takes new_Mul": (scale_after_mask, "multi-head"),
    "comes from Sub, not Add": (subtract_mask, "multi-head"),
    "the scores are scaled by 0": (scaled_to_nothing, "multi-head"),
    "the past of the values is [1, 4, 'elsewhere', 16]": (other_past, "multi-head"),
    "the mask is [1, 1, 1, 'sequence + past']": (wide_mask, "multi-head"),
    "need a batch of 1, this one is batch": (batched, "multi-head"),
    "the mask is not one mask, 4 times": (unequal_mask, "multi-query"),
}


@pytest.mark.parametrize("reason", NEAR)
def test_what_only_looks_like_it_stays(reason: str) -> None:
    edit, variant = NEAR[reason]
    source = edited(edit, variant)
    same, report = fused(source)
    assert fingerprint(same) == fingerprint(source)
    (miss,) = report.misses
    assert reason in miss.text
    assert miss.where == "model.layers.0.self_attn"


def test_heads_that_the_operator_refuses_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_attention, "HEAD_STEP", 32)
    _, report = fused(model("multi-head"))
    assert "heads of 16 are no multiple of 32" in report.misses[0].text


def test_attention_without_a_cache_is_no_miss() -> None:
    text = (
        "g (float[1,2,8,16] s, float[1,2,16,4] v) => (float[1,2,8,4] y) { p = Softmax(s) y = MatMul(p, v) }"
    )
    _, report = fused(text_graph(text))
    assert not report.changes
    assert not report.misses


def test_it_prints_its_name() -> None:
    assert str(FuseAttention()) == "fuse-attention"
