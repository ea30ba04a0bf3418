"""quantize-static in int16: whole graphs of several widths, the operators of convolutional networks, and what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UsageError
from m4c.numerics import sqnr
from m4c.passes.calibrate import Calibrate
from m4c.passes.decompose_layer_norm import DecomposeLayerNorm
from m4c.passes.quantize_static import QuantizeStatic
from m4c.pipeline import Pipeline
from m4c.scales import WIDE_KERNELS
from m4c.targets.emit_tflite import to_tflite
from tests.integer_graphs import calibrated, graph, run, stored_as
from tests.passes.quantizing import normal, quantized
from tests.targets.emit_tflite.graphs import infer, operators
from tests.targets.emit_tflite.graphs import run as in_litert

ALL_WIDE = ("Softmax", "MatMul", "Linear", "Add", "Sub", "Mul", "ReduceMean", "Reciprocal", "Gelu")

POOLED = {
    "MaxPool": "MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(c)",
    "AveragePool": "AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(c)",
    "Pad": "Pad(c, pads)",
    "Resize": 'Resize<mode = "linear">(c, , , sizes)',
    "GlobalAveragePool": "GlobalAveragePool(c)",
    "GlobalMaxPool": "GlobalMaxPool(c)",
    "LeakyRelu": "LeakyRelu<alpha = 0.2>(c)",
    "PRelu": "PRelu(c, slope)",
    "DepthToSpace": 'DepthToSpace<mode = "CRD", blocksize = 2>(c)',
}
"""An operator of convolutional networks behind a convolution ``c`` of four channels."""


@pytest.mark.parametrize("wide", [(), tuple(sorted(WIDE_KERNELS))])
@pytest.mark.parametrize("kind", POOLED)
def test_operators_of_convolutional_networks_run_in_integers(
    kind: str, wide: tuple[str, ...], rng: np.random.Generator, tmp_path: Path
) -> None:
    """LiteRT computes what the float graph does, as near as int8 weights, and values of the width, allow."""
    text = f"g (float[1,3,8,8] x) => (y) {{ c = Conv<kernel_shape = [1, 1]>(x, w) p = {POOLED[kind]} y = Add(p, p) }}"
    constants = {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "sizes": np.array([1, 4, 16, 16])}
    weights = {
        "w": normal(rng, 4, 3, 1, 1),
        "slope": np.array([0.1, -0.5, 1, 0.3], np.float32).reshape(4, 1, 1),
    }
    used = {name: held for name, held in (weights | constants).items() if name in text}
    x = {"x": normal(rng, 1, 3, 8, 8)}
    plain = graph(text, **used)
    infer(plain)
    (expected,) = run(plain, x)
    model = Pipeline((Calibrate([x], tmp_path), QuantizeStatic(wide=wide))).run(plain)[0]
    path = tmp_path / "m.tflite"
    to_tflite(model, path)
    (made,) = in_litert(path, x, xnnpack=False)
    assert sqnr(expected, made) > (45 if wide else 30)
    assert "DEQUANTIZE" not in operators(path) or (wide and kind in ("PRelu", "DepthToSpace", "Resize"))


def attention(rng: np.random.Generator, tokens: int) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A pre-norm transformer block of one head over many tokens, where int8 probabilities round to zero."""
    t, d = tokens, 32
    text = f"""g (float[1,{t},{d}] x) => (float[1,{t},{d}] y) {{
        n = LayerNormalization<axis = -1>(x, g, be)
        qm = MatMul(n, wq) q = Add(qm, bq) k = MatMul(n, wk) v = MatMul(n, wv)
        kt = Transpose<perm = [0, 2, 1]>(k) qs = Mul(q, s) qk = MatMul(qs, kt) p = Softmax<axis = -1>(qk)
        o = MatMul(p, v) om = MatMul(o, wo) ob = Add(om, bq) h = Add(x, ob)
        n2 = LayerNormalization<axis = -1>(h, g, be) f = MatMul(n2, wq) fb = Add(f, bq) a = Gelu(fb)
        f2 = MatMul(a, wo) y = Add(h, f2)
    }}"""
    matrices = {name: normal(rng, d, d) / np.float32(math.sqrt(d)) for name in ("wq", "wk", "wv", "wo")}
    vectors = {"g": normal(rng, d) + 2, "be": normal(rng, d), "bq": normal(rng, d)}
    model = graph(text, **matrices, **vectors, s=np.array(1 / math.sqrt(d), np.float32))
    return model, {"x": normal(rng, 1, t, d)}


@pytest.mark.parametrize(
    ("form", "wide", "floor"),
    [("norm", (), 12.0), ("product", ("Softmax", "MatMul"), 20.0), ("product", ALL_WIDE, 30.0)],
)
def test_a_transformer_block(
    rng: np.random.Generator, tmp_path: Path, form: Any, wide: tuple[str, ...], floor: float
) -> None:
    model, x = attention(rng, 400)
    (expected,) = run(model, x)
    steps = Pipeline(
        (DecomposeLayerNorm(form), Calibrate([x], tmp_path), QuantizeStatic(strict=True, wide=wide))
    )
    result, _ = steps.run(model)
    assert sqnr(expected, run(result, x)[0]) >= floor
    dtypes = {str(n.outputs[0].dtype) for n in result.graph if n.op_type == "QuantizeLinear"}
    assert dtypes == ({"INT8", "INT16"} if wide else {"INT8"})
    assert result.graph.opset_imports[""] == (21 if wide else 20)


def test_all_wide_means_that_nothing_is_int8_but_weights(rng: np.random.Generator) -> None:
    """What has no int16 kernel stays float, what it gives and what enters the graph is int16."""
    text = """g (float[3,8] x, float[1,8] z) => (float[4,8] y) {
        c = Concat<axis = 0>(x, z) n = LpNormalization<axis = 1>(c) m = MatMul(n, w) y = Relu(m) }"""
    model = calibrated(graph(text, w=normal(rng, 8, 8)))
    result = quantized(model, wide=tuple(sorted(WIDE_KERNELS)))
    assert [miss.text for miss in result.misses] == ["LpNormalization has no integer kernel"]
    codes = {str(n.outputs[0].dtype) for n in model.graph if n.op_type == "QuantizeLinear"}
    assert codes == {"INT16"}
    assert stored_as(model, "n")[0] == pytest.approx(4 / 32767)


def test_widths_are_converted_where_they_meet() -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = Softmax(x) b = Add(a, x) y = Relu(b) }"
    model = calibrated(graph(text))
    quantized(model, wide=("Softmax",))
    assert stored_as(model, "a") == (1 / 32768, 0)
    add = next(n for n in model.graph if n.op_type == "Add")
    made = [v.producer().inputs[0].dtype for v in add.inputs]  # type: ignore[union-attr]
    assert made == [ir.DataType.INT8, ir.DataType.INT8]


def test_what_cannot_be_wide_is_refused() -> None:
    model = calibrated(graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
    with pytest.raises(
        UsageError, match=r"Concat, LpNormalization cannot compute in int16(.|\n)*fix: choose from"
    ):
        quantized(model, wide=("LpNormalization", "Concat"))
