"""Integer kernels one at a time: right ones are within a step, a wrong one is named."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import NumbersError
from m4c.kernels import check_kernels
from m4c.passes.quantize_static import QuantizeStatic
from m4c.scales import WIDE_KERNELS
from m4c.targets.emit_tflite import to_tflite
from m4c.weights import Array
from tests.integer_graphs import calibrated, graph

BODY = """{ h = MatMul(x, w)  hb = Add(h, b)  a = Gelu(hb)  i = Gather<axis = 1>(a, n)
            d = Add(i, i)  y = Softmax(d) }"""
TEXT = f"g (float[3,8] x, int64[4] n) => (float[3,4] y) {BODY}"


def quantized(factor: float = 1.0, high: float = 4.0) -> ir.Model:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.4, (8, 16)).astype(np.float32)
    bias = np.linspace(-1, 1, 16, dtype=np.float32)
    model = graph(TEXT, w=weight, b=bias * np.float32(factor))
    return QuantizeStatic()(calibrated(model, d=(-high, high))).model


def feeds(rng: np.random.Generator) -> dict[str, Array]:
    return {"x": rng.normal(0, 1.5, (3, 8)).astype(np.float32), "n": np.array([0, 5, 9, 15])}


def emitted(model: ir.Model, folder: Path) -> Path:
    to_tflite(model, folder / "m.tflite")
    return folder / "m.tflite"


def test_right_kernels_are_within_a_step(rng: np.random.Generator, tmp_path: Path) -> None:
    model = quantized()
    before = [node.name for node in model.graph]
    assert 0 <= check_kernels(model, emitted(model, tmp_path), feeds(rng)) <= 0.7
    assert [node.name for node in model.graph] == before


def test_wide_kernels_too(rng: np.random.Generator, tmp_path: Path) -> None:
    model = graph(TEXT, w=np.eye(8, 16, dtype=np.float32), b=np.linspace(-1, 1, 16, dtype=np.float32))
    wide = QuantizeStatic(wide=tuple(sorted(WIDE_KERNELS)))(calibrated(model)).model
    assert 0 <= check_kernels(wide, emitted(wide, tmp_path), feeds(rng)) <= 4


@pytest.mark.parametrize(
    ("other", "first"), [(quantized(factor=1.5), "Add hb of"), (quantized(high=3.0), "Add d of")]
)
def test_a_wrong_kernel_is_named(
    other: ir.Model, first: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """The file is that of a model that differs in one node; those behind it follow from it and are right."""
    with pytest.raises(NumbersError, match=r"differs from its node by [\d.]+ steps, allowed is 1") as caught:
        check_kernels(quantized(), emitted(other, tmp_path), feeds(rng))
    assert first in caught.value.where
    assert caught.value.fix
