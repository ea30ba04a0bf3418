"""quantize-static: where the pairs are, which scales they have, and what the numbers become."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UnsupportedError
from m4c.model import fingerprint
from m4c.numerics import sqnr
from m4c.passes.equalize_norms import EqualizeNorms
from m4c.passes.quantize_static import QuantizeStatic
from m4c.quant import activations
from m4c.scales import WIDE_KERNELS
from m4c.weights import lazy, part, stretches, turned, untransposed
from tests.integer_graphs import calibrated, graph, run, sealed, stored_as
from tests.passes.quantizing import normal, quantized

SQNR_FLOOR_DB = 30.0
"""One linear layer or convolution of normal numbers has about 36 dB in int8."""

LINEAR = "g (float[2,16] x) => (float[2,8] y) { m = MatMul(x, w) y = Add(m, b) }"


def kinds(model: ir.Model) -> list[str]:
    short = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
    return [short.get(node.op_type, node.op_type) for node in model.graph]


def initializer(model: ir.Model, name: str) -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def test_a_linear_layer_is_one_unit(rng: np.random.Generator) -> None:
    weight, bias = normal(rng, 16, 8), normal(rng, 8)
    model = calibrated(graph(LINEAR, w=weight, b=bias), y=(-15, 15))
    x = {"x": normal(rng, 2, 16)}
    (expected,) = run(model, x)
    result = quantized(model)
    assert kinds(model) == ["Q", "DQ", "DQ", "MatMul", "DQ", "Add", "Q", "DQ"]
    assert result.misses == ()
    assert sqnr(expected, run(model, x)[0]) >= SQNR_FLOOR_DB
    scales = np.abs(weight).max(axis=0) / 127
    np.testing.assert_allclose(initializer(model, "w.scales").numpy(), scales, rtol=1e-6)
    np.testing.assert_array_equal(initializer(model, "w.int8").numpy(), np.rint(weight / scales))
    accumulator = stored_as(model, "x")[0] * scales
    np.testing.assert_allclose(initializer(model, "b.scales").numpy(), accumulator, rtol=1e-6)
    np.testing.assert_allclose(
        initializer(model, "b.int32").numpy() * accumulator, bias, atol=accumulator.max() / 2
    )
    assert {"w", "b"}.isdisjoint(model.graph.initializers)


def test_a_matrix_that_was_turned_around_is_read_by_its_rows(rng: np.random.Generator) -> None:
    """By gammas of the norm before it, too: what it is scaled by changes nothing of how it is read."""
    outputs, inputs = 1500, 1024
    weight, bias = normal(rng, outputs, inputs), normal(rng, outputs)
    gamma, beta = normal(rng, inputs), normal(rng, inputs)
    text = f"""g (float[2,{inputs}] x) => (float[2,{outputs}] y) {{
        n = Mul(x, g) s = Add(n, be) m = MatMul(s, w) y = Add(m, b) }}"""
    model = graph(text, w=weight.T, g=gamma, be=beta, b=bias)
    read: list[int] = []

    def some(rows: slice) -> np.ndarray:
        read.append(rows.stop - rows.start)
        return weight[rows]

    def whole() -> np.ndarray:
        raise AssertionError("it was read whole")

    held = lazy("held", ir.DataType.FLOAT, weight.shape, whole, some)
    model.graph.initializers["w"].const_value = turned("w", held)
    quantized(calibrated(EqualizeNorms()(model).model))
    codes, scales = initializer(model, "w.by.g.int8"), initializer(model, "w.by.g.scales").numpy()
    rows = untransposed(codes)
    assert rows is not None
    made = np.concatenate([part(rows, stretch) for stretch in stretches(rows, 1 << 18)])
    scaled = weight * gamma
    np.testing.assert_array_equal(
        scales, (np.abs(scaled).max(axis=1).astype(np.float64) / 127).astype(np.float32)
    )
    np.testing.assert_array_equal(made, np.rint(scaled / scales[:, None]))
    shift = initializer(model, "b.with.be.int32").numpy() * initializer(model, "b.with.be.scales").numpy()
    step = initializer(model, "b.with.be.scales").numpy().max()
    np.testing.assert_allclose(shift, bias + weight @ beta, atol=0.51 * step)
    assert max(read) * inputs * 4 <= 4 << 20
    assert sum(read) == 3 * outputs  # for the scales, for the shift and for the codes


def test_the_interface_keeps_its_names_and_types() -> None:
    model = calibrated(
        graph("g (float[2,4] x) => (float[2,4] y, float[2,4] z) { y = Relu(x) z = Add(y, x) }")
    )
    quantized(model)
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y", "z"]
    assert all(str(v.dtype) == "FLOAT" for v in (*model.graph.inputs, *model.graph.outputs))
    names = [o.name for node in model.graph for o in node.outputs]
    assert len(set(names)) == len(names)


def test_every_reader_takes_the_rounded_value() -> None:
    text = """g (float[1,4,8] x) => (float[1,4,8] y, int64[1,4] best) {
        a = Gelu(x) s = Softmax<axis = -1>(a) t = Mul(s, a) y = Sub(t, x) best = ArgMax<axis = 2, keepdims = 0>(y)
    }"""
    model = calibrated(graph(text))
    quantized(model)
    rounded = {o for n in model.graph if n.op_type == "DequantizeLinear" for o in n.outputs}
    for node in model.graph:
        for value in node.inputs:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and value is not None:
                assert value in rounded, (node.op_type, value.name)
    assert kinds(model).count("Q") == 5


@pytest.mark.parametrize(("kind", "axis", "size"), [("Conv", 0, 10), ("ConvTranspose", 1, 39)])
def test_a_convolution_has_scales_for_its_output_channels(
    kind: str, axis: int, size: int, rng: np.random.Generator
) -> None:
    kernel, bias = normal(rng, 6, 4, 3), normal(rng, 6)
    kernel[2] = 1e-9
    kernel = np.ascontiguousarray(np.moveaxis(kernel, 0, axis))
    text = f"g (float[1,4,20] x) => (float[1,6,{size}] y) {{ y = {kind}<strides = [2], pads = [1, 1]>(x, w, b) }}"
    model = calibrated(graph(text, w=kernel, b=bias), y=(-12, 12))
    x = {"x": normal(rng, 1, 4, 20)}
    (expected,) = run(model, x)
    quantized(model)
    assert sqnr(expected, run(model, x)[0]) >= SQNR_FLOOR_DB
    (axes,) = {
        n.attributes.get_int("axis", 0)
        for n in model.graph
        if n.inputs[0] is not None and n.inputs[0].name == "w.int8"
    }
    assert axes == axis
    assert initializer(model, "w.scales").shape == (6,)


def test_a_convolution_of_a_volume_stays_float(rng: np.random.Generator) -> None:
    text = "g (float[1,2,4,4,4] x) => (float[1,3,3,3,3] y) { a = Relu(x) y = Conv(a, w) }"
    result = quantized(calibrated(graph(text, w=normal(rng, 3, 2, 2, 2, 2))))
    assert [note.text for note in result.misses] == ["Conv of a volume has no integer kernel"]


def test_a_transposed_convolution_in_groups_stays_float(rng: np.random.Generator) -> None:
    text = "g (float[1,4,5] x) => (float[1,6,7] y) { a = Relu(x) y = ConvTranspose<group = 2>(a, w) }"
    result = quantized(calibrated(graph(text, w=normal(rng, 4, 3, 3))))
    assert [note.text for note in result.misses] == ["ConvTranspose in groups has no integer kernel"]


FIXED = [
    ("Softmax", (1 / 256, -128)),
    ("Sigmoid", (1 / 256, -128)),
    ("Tanh", (1 / 128, 0)),
    ("LpNormalization", (1 / 128, 0)),
]


@pytest.mark.parametrize(("op", "expected"), FIXED)
def test_scales_that_kernels_fix(op: str, expected: tuple[float, int]) -> None:
    model = calibrated(
        graph(f"g (float[1,8] x) => (float[8,1] y) {{ a = {op}(x) y = Transpose<perm = [1, 0]>(a) }}")
    )
    quantized(model)
    assert stored_as(model, "a") == expected
    assert stored_as(model, "y") == expected


def test_copies_share_the_scale_of_what_they_copy() -> None:
    text = """g (float[1,4,6] x) => (float[2,6] p, float[2,6] q) {
        r = Reshape(x, shape) p, q = Split<axis = 0, num_outputs = 2>(r)
    }"""
    model = calibrated(graph(text, shape=np.array([4, 6])), q=(-9.0, 0.0))
    quantized(model)
    ((scale, zero_point),) = {stored_as(model, name) for name in "xrpq"}
    assert scale == pytest.approx(13 / 255)
    assert zero_point == round(9 / 13 * 255) - 128


def test_what_is_joined_shares_a_scale_and_stored_tokens_too(rng: np.random.Generator) -> None:
    text = "g (float[1,4] x) => (float[3,4] y) { a = Relu(x) y = Concat<axis = 0>(token, a, x) }"
    model = calibrated(graph(text, token=normal(rng, 1, 4)), token=(-1.0, 5.0))
    quantized(model)
    assert stored_as(model, "a") == stored_as(model, "x") == stored_as(model, "y")
    assert stored_as(model, "y")[0] == pytest.approx(9 / 255)


@pytest.mark.parametrize(
    ("wide", "others", "shared"), [(2.2, True, True), (10.0, True, False), (10.0, False, True)]
)
def test_a_concat_coarsens_no_value_that_others_read(wide: float, others: bool, shared: bool) -> None:
    reader = "z = Relu(a)" if others else "z = Relu(x)"
    body = f"a = Neg(x) b = Mul(x, x) y = Concat<axis = 0>(a, b) {reader}"
    model = graph(f"g (float[1,4] x) => (float[2,4] y, float[1,4] z) {{ {body} }}")
    quantized(calibrated(model, -2, 2, b=(-wide, wide), y=(-wide, wide)))
    assert (stored_as(model, "a") == stored_as(model, "y")) is shared
    assert stored_as(model, "b") == stored_as(model, "y")
    join = next(n for n in model.graph if n.op_type == "Concat")
    operands = [value.producer() for value in join.inputs if value is not None]
    scales = {node.inputs[1] for node in operands if node is not None}
    assert len(scales) == 1, "the kernel copies: all operands have one scale"


def test_a_fixed_scale_is_converted_where_it_is_joined_with_others() -> None:
    text = "g (float[1,4] x) => (float[2,4] y) { a = Softmax(x) y = Concat<axis = 0>(a, x) }"
    model = calibrated(graph(text))
    quantized(model)
    assert stored_as(model, "a") == (1 / 256, -128)
    join = next(n for n in model.graph if n.op_type == "Concat")
    scales = [v.producer().inputs[1].name for v in join.inputs]  # type: ignore[union-attr]
    assert len(set(scales)) == 1
    assert sum(k == "Q" for k in kinds(model)) == 4
    x = np.array([[-4, 0, 1, 4]], np.float32)
    np.testing.assert_allclose(run(model, {"x": x})[0][1], x[0], atol=0.02)


def test_a_table_and_its_rows_share_a_scale(rng: np.random.Generator) -> None:
    table = normal(rng, 50, 8)
    text = "g (int64[2,3] ids) => (float[2,3,8] y) { y = Gather(table, ids) }"
    model = calibrated(graph(text, table=table), -0.1, 0.1, table=(float(table.min()), float(table.max())))
    ids = {"ids": rng.integers(0, 50, (2, 3))}
    quantized(model)
    assert kinds(model) == ["DQ", "Gather", "Q", "DQ"]
    assert np.abs(run(model, ids)[0] - table[ids["ids"]]).max() <= 0.51 * stored_as(model, "y")[0]


def test_constants_in_arithmetic_are_stored_as_integers() -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { y = Mul(x, half) }"
    model = calibrated(graph(text, half=np.array(0.5, np.float32)))
    quantized(model)
    assert initializer(model, "half.int8").numpy() == 127
    x = np.linspace(-4, 4, 4, dtype=np.float32)[None]
    np.testing.assert_allclose(run(model, {"x": x})[0], x / 2, atol=0.04)


def test_masks_saturate_and_still_mask() -> None:
    text = "g (float[2,4] x, float[2,4] mask) => (float[2,4] y) { a = Add(x, mask) y = Softmax(a) }"
    model = graph(text)
    x = {"x": np.array([[3, 1, 0, 2]] * 2, np.float32), "mask": np.zeros((2, 4), np.float32)}
    x["mask"][0, 2:] = -1e9
    expected, ready = run(model, x)[0], calibrated(model, x=(0, 3), mask=(-10, 0), a=(-10, 3))
    quantized(ready)
    actual = run(ready, x)[0]
    assert np.all(actual[0, 2:] == 0)
    np.testing.assert_allclose(actual, expected, atol=0.02)


def test_no_weight_is_read_and_the_input_model_is_untouched(rng: np.random.Generator) -> None:
    text = """g (float[1,4,16] x, int64[1,4] ids) => (float[1,4,8] y) {
        e = Gather(table, ids) h = Add(x, e) m = MatMul(h, w) a = Add(m, b) y = Mul(a, gamma)
    }"""
    shapes: dict[str, tuple[int, ...]] = {"table": (99, 16), "w": (16, 8), "b": (8,), "gamma": (8,)}
    weights = {name: normal(rng, *shape) for name, shape in shapes.items()}
    model = calibrated(sealed(text, **weights), table=(-4.0, 4.0), gamma=(-3.0, 3.0))
    before = fingerprint(model)
    copy = model.clone()
    assert quantized(copy).modified
    assert fingerprint(model) == before
    lazies = {
        n: str(v.dtype)
        for n, v in copy.graph.initializers.items()
        if isinstance(v.const_value, ir.LazyTensor)
    }
    assert lazies == {
        "table.e.int8": "INT8",
        "w.int8": "INT8",
        "w.scales": "FLOAT",
        "b.int32": "INT32",
        "b.scales": "FLOAT",
        "gamma.int8": "INT8",
    }


def test_a_matrix_and_a_bias_may_be_shared(rng: np.random.Generator) -> None:
    weight, bias = normal(rng, 8, 8), normal(rng, 8)
    text = """g (float[2,8] x) => (float[2,8] y) {
        m = MatMul(x, w) a = Add(m, b) r = Relu(a) n = MatMul(r, w) y = Add(b, n)
    }"""
    model = calibrated(graph(text, w=weight, b=bias), a=(-12, 12), r=(0, 12), y=(-30, 30))
    x = {"x": normal(rng, 2, 8)}
    (expected,) = run(model, x)
    quantized(model)
    assert sqnr(expected, run(model, x)[0]) >= 25
    assert sum(v.dtype == ir.DataType.INT32 for v in model.graph.initializers.values()) == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("m = MatMul(x, w) y = Add(m, m)", "two readings of the product"),
        ("m = MatMul(x, w) r = Relu(m) a = Add(m, b) y = Add(a, r)", "another reader"),
        ("m = MatMul(x, w) y = Add(m, full)", "a bias that is not one number a column"),
    ],
)
def test_a_product_that_is_not_a_unit_has_its_own_pair(
    rng: np.random.Generator, text: str, place: str
) -> None:
    weights = {"w": normal(rng, 16, 8), "b": normal(rng, 8), "full": normal(rng, 2, 8)}
    used = {
        n: a
        for n, a in weights.items()
        if n in text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    model = calibrated(
        graph(f"g (float[2,16] x) => (float[2,8] y) {{ {text} }}", **used),
        -16,
        16,
        full=(-4.0, 4.0),
        b=(-4.0, 4.0),
    )
    quantized(model)
    assert stored_as(model, "m")[0] == pytest.approx(32 / 255), place
    assert not any(v.dtype == ir.DataType.INT32 for v in model.graph.initializers.values())


def test_the_square_root_and_its_reciprocal_are_one_kernel() -> None:
    model = calibrated(
        graph("g (float[4] x) => (float[4] y) { s = Sqrt(x) y = Reciprocal(s) }"), x=(0.0, 4.0)
    )
    assert quantized(model).misses == ()
    assert kinds(model) == ["Q", "DQ", "Sqrt", "Reciprocal", "Q", "DQ"]


def test_what_has_no_kernel_stays_float_with_a_reason_and_is_refused_when_strict() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Relu(x) c = Cos(a) s = Sin(c) y = Relu(s) }"
    model = calibrated(graph(text))
    before = fingerprint(model)
    with pytest.raises(UnsupportedError, match=r"Cos has no integer kernel, and 1 more(.|\n)*fix:"):
        quantized(model, strict=True)
    assert fingerprint(model) == before
    result = quantized(model)
    assert [note.text for note in result.misses] == ["Cos has no integer kernel", "Sin has no integer kernel"]
    assert kinds(model) == ["Q", "DQ", "Relu", "Q", "DQ", "Cos", "Sin", "Q", "DQ", "Relu", "Q", "DQ"]


def test_integers_and_bounds_are_left_alone() -> None:
    text = "g (int64[4] i) => (int64[4] o) { o = Add(i, one) }"
    result = quantized(graph(text, one=np.array([1])))
    assert not result.modified
    model = calibrated(
        graph("g (float[4] x, float low, float high) => (float[4] y) { y = Clip(x, low, high) }")
    )
    quantized(model)
    clip = next(n for n in model.graph if n.op_type == "Clip")
    assert stored_as(model, "x") == stored_as(model, "y")
    assert clip.inputs[0] is not model.graph.inputs[0]


def test_it_needs_calibration() -> None:
    model = graph("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    with pytest.raises(ir.passes.PreconditionError, match="quantize-static needs calibrated: x has no range"):
        QuantizeStatic()(model)
    assert activations(model.graph)


def test_the_step_prints_its_options() -> None:
    steps: list[tuple[Callable[[], QuantizeStatic], str]] = [
        (lambda: QuantizeStatic(), "quantize-static"),
        (
            lambda: QuantizeStatic(strict=True, wide=("Softmax", "MatMul")),
            "quantize-static{strict=True,wide=Softmax+MatMul}",
        ),
        (lambda: QuantizeStatic(wide=tuple(WIDE_KERNELS)), "quantize-static{wide=all}"),
    ]
    for make, text in steps:
        assert str(make()) == text
