"""Several signatures in a file: each computes what its model does, and what they have in common is stored and read once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import Bug
from m4c.passes.fold_weights import FoldWeights
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Pipeline
from m4c.read_back import read_back
from m4c.runners import TfliteRunner, open_runners
from m4c.scheme import Scheme
from m4c.targets.emit_tflite import file as file_module
from m4c.targets.emit_tflite import read_ports, to_tflite
from m4c.targets.emit_tflite.emit import lower
from m4c.trace import tflite_values
from m4c.weights import Array, array, lazy, stored_value
from tests.targets.emit_tflite.graphs import Build, drawn

WIDTH = 256
SIGNATURES = {"decode": 1, "prefill_5": 5}
SCHEMES = {"float32": None, "int4": Scheme(4, litert=True), "int8-weights": Scheme(8, litert=True)}

Read = Callable[[Array], Array]


def model(
    steps: int, scheme: Scheme | None, read: Read = lambda values: values, width: int = WIDTH
) -> ir.Model:
    """Return gelu(x · Wᵀ + b) + p for so many steps; ``p`` is in memory and has other values for each number of them."""
    b, matrix = Build(), drawn(width, width)
    w = stored_value(
        lazy("w", ir.DataType.FLOAT, matrix.shape, lambda: read(matrix), lambda rows: read(matrix[rows]))
    )
    b.held.append(w)
    product = b.op("MatMul", b.input("x", 1, steps, width), b.op("Transpose", w, perm=[1, 0]))
    made = b.op("Gelu", b.op("Add", product, b.weight("b", drawn(width))))
    made = b.op("Add", made, b.store("p", np.full(width, steps)))
    rounding = () if scheme is None else (QuantizeWeights(scheme),)
    return Pipeline((FoldWeights(), *rounding), FoldWeights.needs).run(b.model(made))[0]


def models(scheme: Scheme | None, read: Read = lambda values: values) -> dict[str, ir.Model]:
    return {name: model(steps, scheme, read) for name, steps in SIGNATURES.items()}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("largest", [file_module.LARGEST_FLATBUFFER, 0])
def test_each_computes_what_torch_does(
    scheme: Scheme | None, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "LARGEST_FLATBUFFER", largest)
    path = tmp_path / "m.tflite"
    to_tflite(models(scheme), path)
    for (name, steps), runner in zip(SIGNATURES.items(), open_runners(path, list(SIGNATURES)), strict=True):
        x = drawn(1, steps, WIDTH)
        matrix = drawn(WIDTH, WIDTH) if scheme is None else array(read_back(path, name)["w"])
        linear = torch.nn.functional.linear(*(torch.from_numpy(a) for a in (x, matrix, drawn(WIDTH))))
        wanted = torch.nn.functional.gelu(linear).numpy() + steps
        (made,) = runner.run({"x": x}).values()
        bound = 2e-6 if scheme is None else 0.02  # LiteRT rounds activations to 8 bits beside integer weights
        np.testing.assert_allclose(made, wanted, rtol=0, atol=bound * np.abs(wanted).max())
        assert read_ports(path, name).inputs[0].shape == (1, steps, WIDTH)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_file_grows_by_its_structure(scheme: Scheme | None, tmp_path: Path) -> None:
    """A matrix in 8 bits has 12 bytes of scale and zero point for each output in the structure: 0.6 % of this one."""
    several = {name: model(steps, scheme, width=2048) for name, steps in SIGNATURES.items()}
    to_tflite(several["decode"], tmp_path / "one.tflite")
    to_tflite(several, tmp_path / "two.tflite")
    one, two = ((tmp_path / f"{name}.tflite").stat().st_size for name in ("one", "two"))
    assert one < two <= 1.01 * one


def test_a_weight_is_read_once(tmp_path: Path) -> None:
    rows = 0

    def count(values: Array) -> Array:
        nonlocal rows
        rows += len(values)
        return values

    to_tflite(models(SCHEMES["int4"], count), tmp_path / "m.tflite")
    assert rows == WIDTH


def test_equal_buffers_are_one_and_others_are_not(tmp_path: Path) -> None:
    to_tflite(models(None), tmp_path / "m.tflite")
    made = tfl.ModelT.InitFromPackedBuf((tmp_path / "m.tflite").read_bytes())
    one, other = ({t.name.decode(): t.buffer for t in graph.tensors} for graph in made.subgraphs)
    assert {name for name in one if one[name] and one[name] == other.get(name)} == {"b", *_matrix(one)}
    assert one["p"] != other["p"]
    for buffer, value in ((one["p"], 1), (other["p"], 5)):
        np.testing.assert_array_equal(made.buffers[buffer].data.view(np.float32), np.full(WIDTH, value))


def _matrix(tensors: dict[str, int]) -> list[str]:
    return [name for name in tensors if name.startswith("w")]


def test_values_on_the_way_are_those_of_the_signature(tmp_path: Path) -> None:
    to_tflite(models(None), tmp_path / "m.tflite")
    seen: dict[str, Array] = {}
    tflite_values(tmp_path / "m.tflite", {"x": drawn(1, 5, WIDTH)}, seen.__setitem__, "prefill_5")
    (gelu,) = (value for name, value in seen.items() if name.startswith("gelu"))
    runner = TfliteRunner(tmp_path / "m.tflite", signature="prefill_5")
    (wanted,) = runner.run({"x": drawn(1, 5, WIDTH)}).values()
    np.testing.assert_allclose(gelu + 5, wanted, rtol=0, atol=1e-5)


def test_sub_graphs_of_other_tables_are_refused(tmp_path: Path) -> None:
    flats = {name: lower(one) for name, one in models(None).items()}
    with pytest.raises(Bug, match="different tables of operator codes"):
        file_module.write(flats, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
