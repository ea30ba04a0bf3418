"""Artifacts as they were written, read by their operators alone, against the values that ONNX Runtime computes with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from m4c.blockwise import BlockwiseWeight
from m4c.passes.pack_matmul import PackMatMul
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Pipeline
from m4c.read_back import read_back
from m4c.scheme import Scheme
from m4c.targets.emit_onnx import to_onnx
from m4c.weight_file import WeightFile
from m4c.weights import Array, Recipe, array, part, stretches
from tests.passes.test_quantize_weights import LINEAR, TABLE, folded, given, matrix


@dataclass(frozen=True)
class Written:
    """An artifact, and the one matrix that is read back from it."""

    path: Path
    matrix: Recipe

    def run(self, name: str, values: Array) -> Array:
        """Return what ONNX Runtime computes, with activations that are not rounded."""
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = onnxruntime.InferenceSession(str(self.path), options, ["CPUExecutionProvider"])
        made: Array = session.run(None, {name: values})[0]
        return made


def written(model: ir.Model, step: QuantizeWeights, folder: Path, *, packed: bool) -> Written:
    steps = (step, PackMatMul()) if packed else (step,)
    made, _ = Pipeline(steps).run(model)
    for node in made.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    path = folder / "m.onnx"
    with WeightFile(folder / "w.bin") as file:
        to_onnx(made, path, file)
    ((name, found),) = read_back(path).items()
    assert name == found.name == "w"
    return Written(path, found)


def product(made: Written, outputs: int, inputs: int) -> None:
    """Multiply an identity: what comes out is the matrix that the runtime sees."""
    assert made.matrix.shape == ir.Shape([outputs, inputs])
    rows = np.eye(inputs, dtype=np.float32)
    seen = made.run("x", rows).T
    np.testing.assert_allclose(array(made.matrix), seen, rtol=1e-6, atol=1e-7)
    for stretch in stretches(made.matrix, 1):
        np.testing.assert_array_equal(part(made.matrix, stretch), array(made.matrix)[stretch])


def linear(outputs: int = 24, inputs: int = 96) -> ir.Model:
    text = LINEAR.format(inputs=inputs, outputs=outputs).replace("2, 3,", f"{inputs},")
    return folded(text, {"w": matrix(outputs, inputs)})


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("group", [16, 32, 0])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product(bits: int, symmetric: bool, group: int, packed: bool, tmp_path: Path) -> None:
    scheme = Scheme(bits, group, symmetric)
    product(written(linear(), QuantizeWeights(scheme), tmp_path, packed=packed), 24, 96)


@pytest.mark.parametrize("packed", [True, False])
def test_inputs_in_another_order(packed: bool, tmp_path: Path) -> None:
    weight, values = given(np.random.default_rng(4).permutation(64))
    step = QuantizeWeights(Scheme(4), given={"w": weight})
    made = written(linear(24, 64), step, tmp_path, packed=packed)
    product(made, 24, 64)
    np.testing.assert_array_equal(array(made.matrix), values)


@pytest.mark.parametrize(("inputs", "scheme"), [(64, Scheme(4)), (64, Scheme(8, 16)), (40, Scheme(8))])
def test_a_table(inputs: int, scheme: Scheme, tmp_path: Path) -> None:
    model = folded(TABLE.format(inputs=inputs), {"w": matrix(30, inputs)})
    made = written(model, QuantizeWeights(scheme), tmp_path, packed=True)
    ids = np.array([[0, 29, 3], [3, 7, 12]])
    np.testing.assert_array_equal(array(made.matrix)[ids], made.run("ids", ids))
    np.testing.assert_array_equal(part(made.matrix, slice(3, 4)), array(made.matrix)[3:4])


def test_rows_of_a_packed_matrix_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written(linear(200, 96), QuantizeWeights(Scheme(4, 16, False)), tmp_path, packed=True)
    expected = array(made.matrix)[150:160]

    def whole(tensor: object) -> Array:
        raise AssertionError(tensor)

    monkeypatch.setattr("m4c.read_back.array", whole)
    np.testing.assert_array_equal(part(made.matrix, slice(150, 160)), expected)


def test_it_is_the_file_that_is_read(tmp_path: Path) -> None:
    """A changed byte is a changed weight, in the row and column where it lies."""
    made = written(linear(200, 96), QuantizeWeights(Scheme(4, 16)), tmp_path, packed=True)
    before = array(made.matrix).copy()
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[5 * 48 + 3] ^= 0x0F  # codes come first, 48 bytes a row: the low half is the earlier column
    (tmp_path / "w.bin").write_bytes(data)
    changed = np.argwhere(array(read_back(made.path)["w"]) != before)
    assert changed.tolist() == [[5, 6]]


def test_floats_are_no_rounded_weights(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.bin") as file:
        to_onnx(linear(), tmp_path / "m.onnx", file)
    assert read_back(tmp_path / "m.onnx") == {}


def test_the_grid_is_known(tmp_path: Path) -> None:
    made = written(linear(), QuantizeWeights(Scheme(4, 32, False)), tmp_path, packed=True)
    assert isinstance(made.matrix.origin, BlockwiseWeight)
    assert str(made.matrix.origin.grid) == "uint4/32"
