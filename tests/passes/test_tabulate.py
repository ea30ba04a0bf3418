"""tabulate: sines of a step as a table, exact at whole numbers."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.model import fingerprint
from m4c.numerics import TOLERANCE, difference, sqnr
from m4c.passes.calibrate import Calibrate
from m4c.passes.quantize_static import QuantizeStatic
from m4c.passes.tabulate import LARGEST, Tabulate
from m4c.quant import set_whole
from m4c.targets.emit_tflite import read_ports, to_tflite
from m4c.weights import is_weight
from tests.integer_graphs import graph, run
from tests.passes.rewriting import build
from tests.targets.emit_tflite.graphs import operators
from tests.targets.emit_tflite.graphs import run as in_litert

Array = np.ndarray
FREQUENCIES = np.geomspace(1, 1e-4, 8, dtype=np.float32).reshape(1, 8)
BODY = """
    t = Reshape(step, row)
    angle = Mul(t, f)
    s = Sin(angle)
    c = Cos(angle)
    e = Concat<axis = -1>(s, c)
    y = MatMul(e, w)"""
WEIGHT = np.linspace(-1, 1, 16 * 20, dtype=np.float32).reshape(16, 20) ** 3


def embedding(
    whole: tuple[int, int] | None = (0, 999), body: str = BODY, outputs: str = "float[1,20] y"
) -> ir.Model:
    constants = {"row": np.array([1, 1]), "f": FREQUENCIES}
    model = build(f"g (float[1] step) => ({outputs}) {{ {body} }}", {"w": WEIGHT}, constants)
    if whole is not None:
        set_whole(model.graph.inputs[0], *whole)
    return model


def at(step: float) -> dict[str, Array]:
    return {"step": np.array([step], np.float32)}


def test_it_is_the_same_at_every_whole_number() -> None:
    model = embedding()
    before = fingerprint(model)
    result = Tabulate()(model.clone())
    assert [note.text for note in result.changes] == ["5 nodes became 1 tables"]  # type: ignore[attr-defined]
    assert [node.op_type for node in result.model.graph] == ["Round", "Cast", "Gather", "MatMul"]
    assert fingerprint(model) == before
    assert fingerprint(Tabulate()(result.model.clone()).model) == fingerprint(result.model)
    assert all(o.shape is not None and o.dtype is not None for n in result.model.graph for o in n.outputs)
    for step in (0, 1, 500, 999):
        assert (
            difference(run(model, at(step))[0], run(result.model, at(step))[0]).max_relative
            <= TOLERANCE["float32"]
        )
    np.testing.assert_array_equal(run(result.model, at(41.7))[0], run(result.model, at(42))[0])


def test_the_rows_are_computed_when_they_are_read() -> None:
    made = Tabulate()(embedding()).model
    (table,) = [value for value in made.graph.initializers.values() if str(value.name).endswith(".table")]
    assert is_weight(table)
    assert table.shape == (1000, 16)


def test_two_results_share_an_index() -> None:
    body = "t = Reshape(step, row) angle = Mul(t, f) y = Sin(angle) c = Cos(angle) z = Reshape(c, tall)"
    text = f"g (float[1] step) => (float[1,8] y, float[8,1] z) {{ {body} }}"
    model = build(text, {}, {"row": np.array([1, 1]), "f": FREQUENCIES, "tall": np.array([8, 1])})
    set_whole(model.graph.inputs[0], 0, 20)
    made = Tabulate()(model.clone()).model
    assert [n.op_type for n in made.graph].count("Round") == 1
    for expected, actual in zip(run(model, at(7)), run(made, at(7)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (embedding(None), "step may hold any number"),
        (embedding((-1, 9)), f"step holds -1 to 9, a table has 0 to {LARGEST - 1}"),
        (embedding((0, LARGEST)), f"step holds 0 to {LARGEST}, a table has 0 to {LARGEST - 1}"),
    ],
)
def test_near_misses(model: ir.Model, reason: str) -> None:
    before = fingerprint(model)
    result = Tabulate()(model)
    assert [note.text for note in result.misses] == [reason]  # type: ignore[attr-defined]
    assert not result.modified
    assert fingerprint(model) == before


def test_another_reader_of_the_number_is_a_miss() -> None:
    text = "g (float[1] step, float[1] x) => (float[1] y, float[1] z) { y = Sin(step) z = Add(step, x) }"
    model = graph(text)
    set_whole(model.graph.inputs[0], 0, 9)
    result = Tabulate()(model)
    assert [note.text for note in result.misses] == ["step is read by Add too"]  # type: ignore[attr-defined]


def test_what_has_integer_kernels_stays() -> None:
    model = graph("g (float[1] x) => (float[1] y) { y = Add(x, x) }")
    set_whole(model.graph.inputs[0], 0, 9)
    assert not Tabulate()(model).modified


def test_litert_takes_the_step_as_an_integer(tmp_path: Path) -> None:
    samples = [at(step) for step in (0, 100, 321, 777, 999)]
    calibrated = Calibrate(samples, tmp_path)(Tabulate()(embedding()).model).model
    to_tflite(QuantizeStatic(strict=True)(calibrated).model, tmp_path / "m.tflite")
    (port,) = read_ports(tmp_path / "m.tflite").inputs
    assert (port.dtype, port.scale, port.zero_point) == ("int32", 1.0, 0)
    assert operators(tmp_path / "m.tflite") == ["GATHER", "FULLY_CONNECTED"]
    for step in (3, 654):
        (got,) = in_litert(tmp_path / "m.tflite", at(step), xnnpack=True)
        assert sqnr(run(embedding(), at(step))[0], got) > 30
