"""Matrices on a grid in a graph: what becomes of each node, and that ONNX Runtime computes with the rounded values."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from m4c.blockwise import Blocks, BlockwiseWeight
from m4c.errors import UsageError
from m4c.grid import Grid
from m4c.model import fingerprint
from m4c.numerics import difference
from m4c.passes.fold_weights import FoldWeights
from m4c.passes.properties import typed
from m4c.passes.quantize_weights import KEPT, QuantizeWeights
from m4c.pipeline import Pipeline
from m4c.rewrite import attribute
from m4c.rounding.rtn import round_to_nearest
from m4c.scheme import Scheme
from m4c.weights import Array, array
from tests.integer_graphs import run
from tests.passes.rewriting import build

LINEAR = """m (float[2, 3, {inputs}] x) => (float[2, 3, {outputs}] y) {{
    t = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, t)
}}"""
TWO_PRODUCTS = """m (float[3, 64] x) => (float[3, 24] y, float[3, 24] z) {
    t = Transpose<perm = [1, 0]>(w)
    y = MatMul(x, t)
    r = Relu(x)
    z = MatMul(r, t)
}"""
SHARED = """m (float[2, 3, 64] x) => (float[2, 3, p] q, float[2, 3, r] v) {
    a = Slice(w, start, middle, axis)
    b = Slice(w, middle, end, axis)
    s = Transpose<perm = [1, 0]>(a)
    t = Transpose<perm = [1, 0]>(b)
    q = MatMul(x, s)
    v = MatMul(x, t)
}"""
"""Two products that share one matrix of 24 outputs, 8 and 16 of them."""
TABLE = "m (int64[2, 3] ids) => (float[2, 3, {inputs}] y) {{ y = Gather(w, ids) }}"


def matrix(outputs: int = 24, inputs: int = 64) -> Array:
    return np.random.default_rng(5).standard_normal((outputs, inputs)).astype(np.float32)


def rounded(values: Array, grid: Grid) -> Array:
    """Return what rounding to nearest makes of ``values``."""
    return round_to_nearest(torch.from_numpy(values.copy()), grid).dequantized().numpy()


def folded(text: str, weights: Mapping[str, Array], *, readable: bool = True) -> ir.Model:
    """Return a graph as it comes to the pass: transposed weights are recipes."""
    return Pipeline((FoldWeights(),), given=(typed,)).run(build(text, weights, {}, readable=readable))[0]


def quantized(model: ir.Model, step: QuantizeWeights) -> ir.Model:
    """Run the pass; a second run changes nothing, and no weight is read."""
    before = fingerprint(model)
    made = Pipeline((step,)).run(model)[0]
    assert fingerprint(model) == before
    assert fingerprint(Pipeline((step,)).run(made)[0]) == fingerprint(made)
    return made


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def feed(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(9).standard_normal(shape).astype(np.float32)


def cuts(middle: int = 8, start: int = 0) -> dict[str, Array]:
    """Return the constants of SHARED."""
    return {
        "start": np.array([start]),
        "middle": np.array([middle]),
        "end": np.array([2**40]),
        "axis": np.array([0]),
    }


def shared(values: Array, constants: Mapping[str, Array]) -> ir.Model:
    graph = build(SHARED, {"w": values}, constants, readable=True)
    return Pipeline((FoldWeights(),), given=(typed,)).run(graph)[0]


def test_products_that_share_a_matrix_have_a_piece_each() -> None:
    values, x = matrix(), feed((2, 3, 64))
    made = quantized(shared(values, cuts()), QuantizeWeights(Scheme(4, 32)))
    assert {name for name in made.graph.initializers if name.endswith(".q")} == {"w[0:8].q", "w[8:24].q"}
    wanted = x @ rounded(values, Grid(4, 32)).T
    np.testing.assert_allclose(np.concatenate(run(made, {"x": x}), axis=-1), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [(("w", "float32"),), ()], ids=["kept", "a row that nobody reads"])
def test_a_matrix_that_is_kept_or_read_in_part_stays_whole(keep: tuple[tuple[str, str], ...]) -> None:
    scheme = Scheme(4, 32, keep=keep) if keep else Scheme(4, 32)
    made = shared(matrix(), cuts() if keep else cuts(9, start=1))
    assert "DequantizeLinear" not in operators(quantized(made, QuantizeWeights(scheme)))


@pytest.mark.parametrize("group", [16, 64, 0])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product(bits: int, symmetric: bool, group: int) -> None:
    values, x = matrix(), feed((2, 3, 64))
    scheme = Scheme(bits, group, symmetric)
    made = quantized(folded(LINEAR.format(inputs=64, outputs=24), {"w": values}), QuantizeWeights(scheme))
    assert operators(made) == ["DequantizeLinear", "MatMul"]
    assert made.opset_imports[""] == 21
    assert set(made.graph.initializers) == {"w.q", "w.scales"} | (set() if symmetric else {"w.zeros"})
    (found,) = run(made, {"x": x})
    expected = x @ rounded(values, Grid(bits, group or None, symmetric)).T
    assert difference(expected, found).max_relative < 1e-5
    assert difference(x @ values.T, found).max_relative > 1e-3


def test_nothing_is_read() -> None:
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()}, readable=False)
    quantized(model, QuantizeWeights(Scheme(4)))
    table = folded(TABLE.format(inputs=64), {"w": matrix()}, readable=False)
    quantized(table, QuantizeWeights(Scheme(4)))


def test_the_stored_values_are_those_of_the_grid() -> None:
    values = matrix()
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": values})
    made = quantized(model, QuantizeWeights(Scheme(4, 32)))
    tensors = [made.graph.initializers[name].const_value for name in ("w.q", "w.scales")]
    assert all(tensor is not None for tensor in tensors)
    codes, scales = (array(tensor) for tensor in tensors if tensor is not None)
    assert tensors[0] is not None
    assert (tensors[0].dtype, tensors[0].nbytes) == (ir.DataType.INT4, 64 * 24 // 2)
    found = (codes.astype(np.float32) * np.repeat(scales, 32, axis=0)).T
    np.testing.assert_array_equal(found, rounded(values, Grid(4, 32)))


@pytest.mark.parametrize(
    ("scheme", "inputs", "grid"),
    [
        (Scheme(4), 64, Grid(8, 64)),
        (Scheme(8), 40, Grid(8, None)),
        (Scheme(8, 0), 64, Grid(8, None)),
        (Scheme(8, 16), 64, Grid(8, 16)),
    ],
)
def test_a_table_keeps_8_bits(scheme: Scheme, inputs: int, grid: Grid) -> None:
    values = matrix(30, inputs)
    made = quantized(folded(TABLE.format(inputs=inputs), {"w": values}), QuantizeWeights(scheme))
    assert operators(made) == ["Gather", "Gather", "DequantizeLinear"]
    ids = np.array([[0, 29, 3], [3, 7, 12]])
    (found,) = run(made, {"ids": ids})
    np.testing.assert_allclose(found, rounded(values, grid)[ids], rtol=1e-6)


def test_what_is_kept_stays_as_it_is() -> None:
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()})
    step = QuantizeWeights(Scheme(4, keep=(("w", "float32"),)))
    made, reports = Pipeline((step,)).run(model)
    assert fingerprint(made) == fingerprint(model)
    assert [note.text for note in reports[0].misses] == [KEPT]
    assert made.opset_imports[""] == 20
    eight = quantized(model, QuantizeWeights(Scheme(4, keep=(("w", "int8"),))))
    tensor = eight.graph.initializers["w.q"].const_value
    assert tensor is not None
    assert tensor.dtype == ir.DataType.INT8


@pytest.mark.parametrize(
    "text",
    [
        # a part of a matrix is no tensor of the source
        """m (float[3, 64] x) => (float[3, 12] y) {
            starts = Constant<value_ints = [0]>()
            ends = Constant<value_ints = [12]>()
            part = Slice(w, starts, ends, starts)
            t = Transpose<perm = [1, 0]>(part)
            y = MatMul(x, t)
        }""",
        # neither is a sum
        "m (float[3, 24] x) => (float[3, 64] y) { s = Add(w, w) y = MatMul(x, s) }",
        "m (int64[3] ids) => (float[3, 64] y) { s = Add(w, w) y = Gather(s, ids) }",
        # inputs first
        "m (float[3, 24] x) => (float[3, 64] y) { y = MatMul(x, w) }",
        # what is gathered is no row
        "m (int64[3] ids) => (float[24, 3] y) { y = Gather<axis = 1>(w, ids) }",
        # read in two ways
        "m (int64[3] ids) => (float[3, 64] y, float[24, 64] z) { y = Gather(w, ids) z = Relu(w) }",
        # a product of two activations
        "m (float[3, 24] x) => (float[3, 3] y) { t = Transpose<perm = [1, 0]>(x) y = MatMul(x, t) }",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    proto = text.replace("starts = Constant<value_ints = [0]>()", "").replace(
        "ends = Constant<value_ints = [12]>()", ""
    )
    constants = {"starts": np.array([0]), "ends": np.array([12])} if proto != text else {}
    model = Pipeline((FoldWeights(),), given=(typed,)).run(build(proto, {"w": matrix()}, constants))[0]
    made = quantized(model, QuantizeWeights(Scheme(4)))
    assert fingerprint(made) == fingerprint(model)


def test_a_tied_table_and_head_stay_float() -> None:
    text = """m (int64[3] ids, float[3, 64] x) => (float[3, 64] e, float[3, 24] y) {
        e = Gather(w, ids)
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(x, t)
    }"""
    model = folded(text, {"w": matrix()})
    assert fingerprint(quantized(model, QuantizeWeights(Scheme(4)))) == fingerprint(model)


def test_two_products_share_one_matrix() -> None:
    values, x = matrix(), feed((3, 64))
    made = quantized(folded(TWO_PRODUCTS, {"w": values}), QuantizeWeights(Scheme(8, 16)))
    assert operators(made).count("DequantizeLinear") == 2
    assert set(made.graph.initializers) == {"w.q", "w.scales"}
    near = rounded(values, Grid(8, 16)).T
    for found, expected in zip(run(made, {"x": x}), (x @ near, np.maximum(x, 0) @ near), strict=True):
        assert difference(expected, found).max_relative < 1e-5


def test_names_and_places_stay() -> None:
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()})
    for node in model.graph:
        node.metadata_props["place"] = "layer.0"
    made = quantized(model, QuantizeWeights(Scheme(4)))
    assert [value.name for value in made.graph.outputs] == ["y"]
    assert {node.metadata_props["place"] for node in made.graph} == {"layer.0"}
    assert len({node.name for node in made.graph}) == 2


def given(order: Array | None = None) -> tuple[BlockwiseWeight, Array]:
    """Return a matrix that was quantized before, and its values in the order of its inputs."""
    rng = np.random.default_rng(2)
    codes = torch.from_numpy(rng.integers(0, 16, (24, 64), np.uint8))
    scales = torch.from_numpy(rng.random((24, 4), np.float32) + np.float32(0.5))
    zeros = torch.from_numpy(rng.integers(0, 16, (24, 4), np.uint8))
    blocks = Blocks(codes, scales, zeros)
    weight = BlockwiseWeight(
        "w",
        (24, 64),
        Grid(4, 16, symmetric=False),
        lambda rows: Blocks(codes[rows], scales[rows], zeros[rows]),
        order,
    )
    values = blocks.dequantized().numpy()
    return weight, values if order is None else values[:, np.argsort(order)]


@pytest.mark.parametrize("turned", [False, True])
def test_what_was_quantized_before_keeps_its_codes(turned: bool) -> None:
    order = np.random.default_rng(4).permutation(64) if turned else None
    weight, values = given(order)
    x = feed((2, 3, 64))
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()})
    made = quantized(model, QuantizeWeights(Scheme(8), given={"w": weight}))
    assert operators(made) == [*(["Gather"] if turned else []), "DequantizeLinear", "MatMul"]
    assert difference(x @ values.T, run(made, {"x": x})[0]).max_relative < 1e-5


def test_a_checkpoint_on_a_grid_keeps_its_codes() -> None:
    weight, values = given()
    model = build(LINEAR.format(inputs=64, outputs=24), {"w": matrix()}, {})
    model.graph.initializers["w"].const_value = weight.dequantized()
    model = Pipeline((FoldWeights(),), given=(typed,)).run(model)[0]
    made = quantized(model, QuantizeWeights(Scheme(8)))
    x = feed((2, 3, 64))
    assert difference(x @ values.T, run(made, {"x": x})[0]).max_relative < 1e-5


def test_a_grid_for_one_matrix() -> None:
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()})
    made = quantized(model, QuantizeWeights(Scheme(4), grids={"w": Grid(8, 16)}))
    assert attribute(made.graph.node(0), "block_size") == 16
    tensor = made.graph.initializers["w.q"].const_value
    assert tensor is not None
    assert tensor.dtype == ir.DataType.INT8


def test_a_group_that_does_not_divide_is_the_users_mistake() -> None:
    model = folded(LINEAR.format(inputs=40, outputs=24), {"w": matrix(24, 40)})
    with pytest.raises(UsageError, match="a group size of 32 does not divide the 40 inputs of w"):
        Pipeline((QuantizeWeights(Scheme(4, 32)),)).run(model)
    assert operators(quantized(model, QuantizeWeights(Scheme(4)))) == ["DequantizeLinear", "MatMul"]


def test_as_text() -> None:
    step = QuantizeWeights(Scheme(4, 32))
    assert str(step) == "quantize-weights{scheme=int4/32, rtn}"
    assert replace(step, given={"w": given()[0]}) == step
