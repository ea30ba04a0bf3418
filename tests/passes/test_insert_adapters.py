"""Slots beside products and tables: what they add, and that without an adapter nothing is different."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from m4c.model import fingerprint
from m4c.passes.fold_weights import FoldWeights
from m4c.passes.insert_adapters import InsertAdapters
from m4c.passes.properties import typed
from m4c.pipeline import Pipeline
from m4c.slots import Slot
from m4c.weights import Array
from tests.integer_graphs import run
from tests.passes.rewriting import build

LINEAR = """m (float[2, 8] x) => (float[2, 6] y) {
    t = Transpose<perm = [1, 0]>(w)
    p = MatMul(x, t)
    y = Add(p, b)
}"""
PACKED = """m (float[2, 8] x) => (float[2, 4] q, float[2, 4] v) {
    qs = Slice(w, zero, four, axis)
    qt = Transpose<perm = [1, 0]>(qs)
    q = MatMul(x, qt)
    vs = Slice(w, eight, twelve, axis)
    vt = Transpose<perm = [1, 0]>(vs)
    v = MatMul(x, vt)
}"""
TABLE = """m (int64[1, 3] ids) => (float[1, 3, 8] y) {
    y = Gather(w, ids)
}"""

RNG = np.random.default_rng(0)
CUTS = {"zero": 0, "four": 4, "eight": 8, "twelve": 12, "axis": 0}
ONE = Slot("fc", "w", 8, 6)
X = RNG.standard_normal((2, 8)).astype(np.float32)
IDS = np.array([[5, 0, 2]])


def folded(text: str, rows: int) -> ir.Model:
    weights = {"w": RNG.standard_normal((rows, 8)).astype(np.float32)}
    if text is LINEAR:
        weights["b"] = RNG.standard_normal(6).astype(np.float32)
    cuts = {name: np.array([value]) for name, value in CUTS.items()} if text is PACKED else {}
    return Pipeline((FoldWeights(),), given=(typed,)).run(build(text, weights, cuts))[0]


def inserted(model: ir.Model, *slots: Slot) -> ir.Model:
    step = InsertAdapters(slots)
    before = fingerprint(model)
    made, reports = Pipeline((step,)).run(model)
    assert fingerprint(model) == before
    assert bool(reports[0].changes) == (fingerprint(made) != before)
    again, second = Pipeline((step,)).run(made)
    assert fingerprint(again) == fingerprint(made)
    assert not second[0].changes
    assert not typed.problems(made)
    return made


def pair(slot: Slot, rank: int) -> dict[str, Array]:
    shapes = {slot.down: (slot.inputs, rank), slot.up: (rank, slot.outputs)}
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("rank", [1, 3])
def test_a_product_takes_any_rank_and_none(rank: int) -> None:
    model = folded(LINEAR, 6)
    made = inserted(model, ONE)
    assert [node.op_type for node in made.graph] == ["MatMul", "Add", "MatMul", "MatMul", "Add"]
    (before,) = run(model, {"x": X})
    np.testing.assert_array_equal(run(made, {"x": X})[0], before, strict=True)
    given = pair(ONE, rank)
    expected = before + X @ given[ONE.down] @ given[ONE.up]
    np.testing.assert_allclose(run(made, {"x": X, **given})[0], expected, rtol=1e-5, atol=1e-5)


def test_rows_of_a_packed_matrix_have_slots_of_their_own() -> None:
    model = folded(PACKED, 12)
    value = Slot("attn.v_proj", "w", 8, 4, first=8)
    made = inserted(model, value, Slot("attn.k_proj", "w", 8, 4, first=4))
    assert [v.name for v in made.graph.inputs] == ["x", value.down, value.up]
    q, v = run(model, {"x": X})
    given = pair(value, 2)
    other = run(made, {"x": X, **given})
    np.testing.assert_array_equal(other[0], q)
    np.testing.assert_allclose(other[1], v + X @ given[value.down] @ given[value.up], rtol=1e-5, atol=1e-5)


def test_a_table_gathers_the_rows_of_a() -> None:
    model = folded(TABLE, 7)
    slot = Slot("embed", "w", 7, 8, table=True)
    made = inserted(model, slot)
    (before,) = run(model, {"ids": IDS})
    np.testing.assert_array_equal(run(made, {"ids": IDS})[0], before, strict=True)
    given = pair(slot, 2)
    expected = before + given[slot.down][IDS] @ given[slot.up]
    np.testing.assert_allclose(run(made, {"ids": IDS, **given})[0], expected, rtol=1e-5, atol=1e-5)


def test_with_a_limit_every_call_gives_the_pair() -> None:
    made = inserted(folded(LINEAR, 6), replace(ONE, limit=4))
    shapes = {value.name: str(value.shape) for value in made.graph.inputs}
    assert shapes == {"x": "[2,8]", ONE.down: "[8,4]", ONE.up: "[4,6]"}
    assert not set(made.graph.initializers) & set(shapes)


@pytest.mark.parametrize(
    "slot",
    [Slot("fc", "other", 8, 6), Slot("fc", "w", 8, 6, first=2), Slot("fc", "w", 8, 6, table=True)],
    ids=["another weight", "other rows", "a table"],
)
def test_what_has_no_slot_stays(slot: Slot) -> None:
    model = folded(LINEAR, 6)
    assert fingerprint(inserted(model, slot)) == fingerprint(model)
