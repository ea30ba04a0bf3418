"""narrow-cache: caches at the border of LLaMA's decoder in float16 and int8, fused and not, against the graph as it was."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from m4c.cache import beyond_rounding, pairs, real, stored
from m4c.capture import bind, capture
from m4c.checkpoints.random import random_weights
from m4c.model import fingerprint, operator_counts
from m4c.models.graph import Graph, Submodel
from m4c.models.llama import build
from m4c.models.llama_sizes import LlamaSizes
from m4c.numerics import TOLERANCE, difference
from m4c.passes import canonical
from m4c.passes.fuse_attention import FuseAttention
from m4c.passes.narrow_cache import NarrowCache
from m4c.passes.properties import typed
from m4c.pipeline import Pipeline
from m4c.skeleton import skeleton
from m4c.weights import Array, is_weight, lazy
from tests.integer_graphs import run

SIZES = LlamaSizes(64, 64, 96, layers=2, heads=4, kv_heads=2, head_dim=16, max_positions=32)
NARROW = ("float16", "int8")
FUSED = "com.microsoft::GroupQueryAttention"

PREFILL, DECODE, CONTINUED = (0, 7), (5, 1), (5, 3)
"""Past steps and new ones."""


@cache
def submodel() -> Submodel:
    with skeleton():
        return build("backbone", SIZES)


def decoder() -> Graph:
    return next(graph for graph in submodel().graphs if graph.name == "backbone/decoder")


@cache
def plain(fused: bool) -> ir.Model:
    """Return the graph with caches in float32."""
    model = capture(decoder())
    bind(model, random_weights(submodel().source, 0))
    return ((canonical() | FuseAttention()) if fused else canonical()).run(model)[0]


@cache
def narrowed(kind: str, fused: bool) -> ir.Model:
    """Return the graph after the pass: the input is untouched, and a second run changes nothing."""
    source, pipeline = plain(fused), Pipeline((NarrowCache(kind),), given=(typed,))
    before = fingerprint(source)
    made, (report,) = pipeline.run(source)
    assert fingerprint(source) == before
    assert [note.where for note in report.changes] == [
        "past_key_0", "past_value_0", "past_key_1", "past_value_1",
    ]  # fmt: skip
    again, (second,) = pipeline.run(made)
    assert fingerprint(again) == fingerprint(made)
    assert not second.changes
    return made


def call(model: ir.Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    names = [str(value.name) for value in model.graph.outputs]
    return dict(zip(names, run(model, inputs), strict=True))


def sample(past: int, sequence: int, size: float = 1) -> dict[str, Array]:
    """Return inputs whose caches are ``size`` times standard normal numbers."""
    made = decoder().sample(np.random.default_rng(1), {"batch": 1, "past": past, "sequence": sequence})
    return {n: v * np.float32(size) if n.startswith("past_") else v for n, v in made.items()}


def names(side: int) -> list[str]:
    return [pair[side].name for pair in pairs(decoder().inputs, decoder().outputs)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize(("past", "sequence"), [PREFILL, DECODE, CONTINUED])
def test_the_numbers_are_those_of_the_rounded_caches(
    kind: str, fused: bool, past: int, sequence: int
) -> None:
    taken = stored(sample(past, sequence), names(0), kind)
    expected = call(plain(fused), real(taken))
    made = call(narrowed(kind, fused), taken)
    assert {made[name].dtype for name in names(1)} == {np.dtype(kind)}
    found = real(made)
    half = kind == "float16" and fused
    for name, value in expected.items():
        near = beyond_rounding(value, found[name], kind) if name in names(1) else found[name]
        rounding = 2**-11 if kind == "float16" and name in names(1) else 0
        allowed = TOLERANCE["float16"] if half else TOLERANCE["float32"] / 10 + rounding
        assert difference(value, near).max_relative < allowed, name


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", NARROW)
def test_old_steps_stay_as_they_were(kind: str, fused: bool) -> None:
    """What was rounded once is not rounded again, however often it comes back."""
    taken = stored(sample(5, 3), names(0), kind)
    made = call(narrowed(kind, fused), taken)
    for past, present in pairs(narrowed(kind, fused).graph.inputs, narrowed(kind, fused).graph.outputs):
        np.testing.assert_array_equal(made[str(present.name)][:, :, :5], taken[str(past.name)])


def test_steps_of_zeros_have_a_scale() -> None:
    taken = stored(sample(4, 2, size=0), names(0), "int8")
    assert all((taken[f"{name}_scale"] > 0).all() for name in names(0))
    assert np.isfinite(call(narrowed("int8", True), taken)["logits"]).all()


def test_rows_that_see_nothing_are_numbers() -> None:
    """Padding hides every step from itself; in float16 the mask must not be infinite."""
    taken = stored(sample(0, 4), names(0), "float16")
    taken["mask"] = np.full_like(taken["mask"], -1e9)
    for name, value in call(narrowed("float16", True), taken).items():
        assert np.isfinite(value).all(), name


def test_what_is_in_the_graph() -> None:
    half = operator_counts(narrowed("float16", True))
    assert half[FUSED] == 2
    assert half["Max"] == 1, "the mask is limited once for all layers"
    assert half["Cast"] == operator_counts(plain(True))["Cast"] + 2 * 4 + 1
    kept = narrowed("float16", True).graph.initializers
    assert {kept[name].dtype for name in ("cos.half.float16", "sin.half.float16")} == {ir.DataType.FLOAT16}
    assert "cos.half" not in kept
    assert operator_counts(narrowed("float16", False))["Cast"] == 8


@pytest.mark.parametrize("kind", NARROW)
def test_ports(kind: str) -> None:
    graph = narrowed(kind, True).graph
    ports = {str(v.name): (v.dtype, str(v.shape)) for v in (*graph.inputs, *graph.outputs)}
    dtype = ir.DataType.FLOAT16 if kind == "float16" else ir.DataType.INT8
    assert ports["past_key_1"] == (dtype, "[1,2,past,16]")
    assert ports["present_value_1"] == (dtype, "[1,2,past + sequence,16]")
    if kind == "int8":
        assert ports["past_key_1_scale"] == (ir.DataType.FLOAT, "[1,2,past,1]")
        assert ports["present_value_1_scale"] == (ir.DataType.FLOAT, "[1,2,past + sequence,1]")
    assert ports["logits"][0] == ir.DataType.FLOAT
    onnx.checker.check_model(ir.to_proto(narrowed(kind, False)), full_check=True)


@pytest.mark.parametrize(("kind", "fused"), [("float16", False), ("int8", False), ("int8", True)])
def test_one_layer_at_a_time_is_in_float32(kind: str, fused: bool, tmp_path: Path) -> None:
    """ONNX Runtime reads the cache of a layer after it has stored that of the layer before."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    held = ir.to_proto(narrowed(kind, fused)).SerializeToString()
    session = onnxruntime.InferenceSession(held, options, providers=["CPUExecutionProvider"])
    session.run(None, stored(sample(5, 1), names(0), kind))
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["name"].removesuffix("_kernel_time") for event in events]
    stores = [ran.index(f"node_present_{part}_0.stored") for part in ("key", "value")]
    reads = [ran.index(f"node_past_{part}_1.real") for part in ("key", "value")]
    assert max(stores) < min(reads)


def test_no_weight_is_read() -> None:
    def read() -> Array:
        raise AssertionError

    source = plain(True).clone()
    for name, value in source.graph.initializers.items():
        if is_weight(value) and value.const_value is not None:
            value.const_value = lazy(name, value.const_value.dtype, value.const_value.shape.numpy(), read)
    for kind in NARROW:
        Pipeline((NarrowCache(kind),), given=(typed,)).run(source)


def test_heads_that_are_not_fused_have_casts_at_the_border() -> None:
    with skeleton():
        odd = build("backbone", replace(SIZES, head_dim=24))
    graph = next(graph for graph in odd.graphs if graph.name == "backbone/decoder")
    model = capture(graph)
    bind(model, random_weights(odd.source, 0))
    model, _ = (canonical() | FuseAttention() | NarrowCache("float16")).run(model)
    counts = operator_counts(model)
    assert (counts[FUSED], counts["Cast"]) == (0, 8)


def test_a_graph_without_caches_stays() -> None:
    with skeleton():
        embed = capture(submodel().graphs[0])
    made, (report,) = Pipeline((NarrowCache("int8"),), given=(typed,)).run(embed)
    assert fingerprint(made) == fingerprint(embed)
    assert not report.changes
