"""fuse-attention: LLaMA's decoder computes the same, with one operator a layer; what only looks like it stays."""

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
from m4c.weights import is_weight
from tests.integer_graphs import graph as text_graph
from tests.integer_graphs import run
from tests.passes.attention_edits import (
    Edit,
    array_of,
    attend_elsewhere,
    batched,
    computed_inputs,
    key_elsewhere,
    lazy_table,
    lone_table,
    node_of,
    other_past,
    other_positions,
    other_table,
    past_last,
    rescale,
    scale_after_mask,
    scaled_keys,
    scaled_late,
    scaled_to_nothing,
    sealed,
    set_axis,
    shared_cache,
    subtract_mask,
    turn,
    turned_the_other_way,
    unequal_mask,
    unrotated_key,
    unswapped,
    wide_mask,
    without_scale,
)

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


def edited(edit: Edit, variant: str = "multi-head") -> ir.Model:
    changed = model(variant).clone()
    edit(changed.graph)
    return changed


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


def test_mask_and_positions_may_be_computed() -> None:
    source = edited(computed_inputs)
    after, report = fused(source)
    assert report.changes
    assert worst(source, after, decoder("multi-head"), *CONTINUED) < CLOSE
    assert worst(source, after, decoder("multi-head"), *PREFILL) < CLOSE


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
