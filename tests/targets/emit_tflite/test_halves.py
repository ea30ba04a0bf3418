"""Weights in float16: what is stored, what reads it, and what LiteRT computes from it."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.runners import open_runner
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.emit_tflite.emit import lower
from m4c.targets.emit_tflite.halves import halve
from m4c.targets.read_tflite import read_tflite
from m4c.weights import lazy, stored_value
from tests.targets.emit_tflite.graphs import Build, drawn

TABLE, MATRIX, KERNEL = drawn(40, 16), drawn(16, 12), drawn(8, 3, 3, 3)


def written(model: ir.Model, path: Path) -> dict[str, list[str]]:
    """Write a model in float16 and return its operators, each with what it reads that is stored in float16."""
    assert not to_tflite(model, path, half=True)
    (graph,) = read_tflite(path)
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        halves = [t.name for t in node.inputs if t is not None and t.constant and t.dtype == "float16"]
        found.setdefault(node.operator, []).extend(halves)
    return found


def same(path: Path, **pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Check that the only output of a file is the second of a pair for the first."""
    (made,) = open_runner(path).run({name: given for name, (given, _) in pairs.items()}).values()
    for _, expected in pairs.values():
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def test_matrices_are_behind_a_dequantize(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    model = b.model(b.op("MatMul", b.input("x", 2, 16), b.weight("w", MATRIX)))
    found = written(model, tmp_path / "m.tflite")
    assert found == {"DEQUANTIZE": ["w.transposed.float16"], "FULLY_CONNECTED": []}
    x = rng.standard_normal((2, 16)).astype(np.float32)
    same(tmp_path / "m.tflite", x=(x, x @ half(MATRIX)))


def test_kernels_are_laid_out_before_they_are_rounded(tmp_path: Path, rng: np.random.Generator) -> None:
    b = Build()
    model = b.model(b.op("Conv", b.input("x", 1, 3, 9, 9), b.weight("k", KERNEL)))
    written(model, tmp_path / "half.tflite")
    b = Build()
    to_tflite(
        b.model(b.op("Conv", b.input("x", 1, 3, 9, 9), b.weight("k", half(KERNEL)))), tmp_path / "m.tflite"
    )
    x = rng.standard_normal((1, 3, 9, 9)).astype(np.float32)
    (expected,) = open_runner(tmp_path / "m.tflite").run({"x": x}).values()
    same(tmp_path / "half.tflite", x=(x, expected))
    assert (tmp_path / "half.tflite").stat().st_size < (tmp_path / "m.tflite").stat().st_size


def test_rows_are_gathered_as_they_are_stored(tmp_path: Path) -> None:
    b = Build()
    model = b.model(b.op("Gather", b.weight("t", TABLE), b.input("i", 3, dtype=ir.DataType.INT64)))
    assert written(model, tmp_path / "m.tflite") == {"GATHER": ["t.float16"], "CAST": []}
    i = np.array([7, 39, 0])
    same(tmp_path / "m.tflite", i=(i, half(TABLE)[i]))


def tied() -> ir.Model:
    """Return a model that looks rows up in a table and multiplies by it, turned around."""
    from m4c.passes.legalize_tied import LegalizeTied

    b = Build()
    table = b.weight("t", TABLE)
    rows = b.op("Gather", table, b.input("i", 3, dtype=ir.DataType.INT64))
    return LegalizeTied()(b.model(b.op("MatMul", rows, b.op("Transpose", table, perm=[1, 0])))).model


def test_a_table_that_is_a_matrix_too_is_stored_once(tmp_path: Path) -> None:
    found = written(tied(), tmp_path / "m.tflite")
    assert found["GATHER"] == found["DEQUANTIZE"] == ["t.float16"]
    i = np.array([7, 39, 0])
    same(tmp_path / "m.tflite", i=(i, half(TABLE)[i] @ half(TABLE).T))


def test_a_weight_beyond_float16_stays_and_is_told(tmp_path: Path) -> None:
    b = Build()
    model = b.model(b.op("Add", b.input("x", 40, 16), b.weight("mask", np.where(TABLE > 0, -1e9, 0))))
    assert to_tflite(model, tmp_path / "m.tflite", half=True) == {"mask": 1e9}
    assert [node.operator for node in read_tflite(tmp_path / "m.tflite")[0].nodes] == ["ADD"]
    x = np.zeros((40, 16), np.float32)
    same(tmp_path / "m.tflite", x=(x, np.where(TABLE > 0, np.float32(-1e9), 0)))
    b = Build()
    infinite = b.model(b.op("Add", b.input("y", 40, 16), b.weight("open", np.where(TABLE > 0, -np.inf, 0))))
    assert not to_tflite(infinite, tmp_path / "i.tflite", half=True)  # float16 has infinities


def test_nothing_is_read_before_the_file_is_written() -> None:
    def read() -> np.ndarray:
        raise AssertionError("read")

    b = Build()
    weight = stored_value(lazy("w", ir.DataType.FLOAT, (16, 12), read))
    b.held.append(weight)
    flat = lower(b.model(b.op("MatMul", b.input("x", 2, 16), weight)))
    halve(flat)
    assert [t.name for t in flat.tensors if t.dtype == ir.DataType.FLOAT16] == ["w.transposed.float16"]


@pytest.mark.parametrize("half_", [False, True])
def test_equal_models_give_equal_bytes(tmp_path: Path, half_: bool) -> None:
    for name in ("a", "b"):
        to_tflite(tied(), tmp_path / name, half=half_)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
