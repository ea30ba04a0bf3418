import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import Bug
from m4c.weights import (
    Array,
    Recipe,
    array,
    constant,
    derive,
    divisible,
    hidden,
    is_weight,
    lazy,
    part,
    register,
    small,
    spans,
    stored,
    stored_value,
    stretches,
)


class Reads:
    """A recipe that counts its uses."""

    def __init__(self, values: Array) -> None:
        self.values, self.count = values, 0

    def __call__(self) -> Array:
        self.count += 1
        return self.values


def weight(values: Array, dtype: ir.DataType = ir.DataType.FLOAT) -> tuple[ir.LazyTensor, Reads]:
    reads = Reads(values)
    return lazy("w", dtype, values.shape, reads), reads


def graph_with(*values: ir.Value) -> ir.Graph:
    return ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 20})


def test_a_weight_is_read_at_each_use_and_only_then() -> None:
    tensor, reads = weight(np.ones((2, 3), np.float32))
    assert (tensor.dtype, tensor.shape, tensor.nbytes, reads.count) == (
        ir.DataType.FLOAT,
        ir.Shape([2, 3]),
        24,
        0,
    )
    assert array(tensor).sum() == 6
    assert array(tensor).sum() == 6
    assert reads.count == 2


@pytest.mark.parametrize(
    "given", [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64), np.zeros(6, np.float32)]
)
def test_a_recipe_must_keep_its_promise(given: Array) -> None:
    tensor = lazy("w", ir.DataType.FLOAT, (2, 3), lambda: given)
    with pytest.raises(Bug, match=r"the recipe of w gave float\d\d\[.*declared was float32\[2, 3\]"):
        array(tensor)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (ir.DataType.INT4, ml_dtypes.int4),
        (ir.DataType.UINT4, ml_dtypes.uint4),
        (ir.DataType.BFLOAT16, ml_dtypes.bfloat16),
        (ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
    ],
)
def test_dtypes_that_numpy_lacks(dtype: ir.DataType, kind: type) -> None:
    values: Array = np.array([[1, 2, 3], [4, 5, 6]]).astype(kind)
    tensor, _ = weight(values, dtype)
    assert array(tensor).dtype == kind
    assert array(tensor).astype(int).tolist() == [[1, 2, 3], [4, 5, 6]]
    packed = tensor.tobytes()
    assert len(packed) == tensor.nbytes
    if dtype == ir.DataType.UINT4:
        assert packed == bytes([0x21, 0x43, 0x65])  # ONNX: the first of two in the low bits


def test_values_come_in_c_order() -> None:
    tensor, _ = weight(np.arange(6, dtype=np.float32).reshape(3, 2).T)
    assert array(tensor).flags.c_contiguous
    assert array(tensor).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_derive_reads_nothing_until_asked() -> None:
    tensor, reads = weight(np.arange(6, dtype=np.float32).reshape(2, 3))
    source = stored_value(tensor)
    turned = derive(source, "t", np.transpose, shape=(3, 2))
    halved = derive(turned, "half", lambda a: a.astype(np.float16), shape=(3, 2), dtype=ir.DataType.FLOAT16)
    assert (halved.name, halved.dtype, halved.shape) == ("w.t.half", ir.DataType.FLOAT16, ir.Shape([3, 2]))
    assert reads.count == 0
    assert halved.const_value is not None
    assert array(halved.const_value).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert reads.count == 1


def test_only_what_is_stored_can_be_derived_from() -> None:
    with pytest.raises(Bug, match="x is computed, not stored"):
        derive(ir.val("x", dtype=ir.DataType.FLOAT, shape=[2]), "t", np.transpose, shape=(2,))


def test_kinds_of_values() -> None:
    tensor, reads = weight(np.ones(2, np.float32))
    lazily, held = stored_value(tensor), stored_value(ir.tensor(np.array([5]), name="five"))
    computed = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2])
    assert [stored(v) for v in (lazily, held, computed, None)] == [True, True, False, False]
    assert [is_weight(v) for v in (lazily, held, computed)] == [True, False, False]
    known = small(held)
    assert known is not None
    assert known.tolist() == [5]
    assert [small(v) for v in (lazily, computed, None)] == [None] * 3
    assert reads.count == 0


def test_one_name_is_registered_once() -> None:
    tensor, _ = weight(np.ones(2, np.float32))
    graph = graph_with()
    first = register(graph, stored_value(tensor))
    assert register(graph, stored_value(tensor)) is first
    other = lazy("w", ir.DataType.FLOAT, (3,), lambda: np.ones(3, np.float32))
    with pytest.raises(Bug, match="two initializers called w"):
        register(graph, stored_value(other))


def test_equal_constants_are_one() -> None:
    graph = graph_with()
    first = constant(graph, "c", np.array([1.0, np.nan], np.float32))
    assert constant(graph, "c", np.array([1.0, np.nan], np.float32)) is first
    for other in (
        np.array([2.0, np.nan], np.float32),
        np.array([1.0, np.nan]),
        np.array([[1.0, np.nan]], "f4"),
    ):
        with pytest.raises(Bug, match="two constants called c"):
            constant(graph, "c", other)


def test_a_constant_does_not_read_a_weight_of_its_name() -> None:
    tensor, reads = weight(np.ones(2, np.float32))
    graph = graph_with(stored_value(tensor))
    with pytest.raises(Bug, match="two constants called w"):
        constant(graph, "w", np.ones(2, np.float32))
    assert reads.count == 0


def test_hidden_weights_come_back_whatever_happens() -> None:
    tensor, reads = weight(np.ones(2, np.float32))
    lazily, held = stored_value(tensor), stored_value(ir.tensor(np.array([5]), name="five"))
    graph = graph_with(lazily, held)
    model = ir.Model(graph, ir_version=10)

    def inside() -> None:
        assert lazily.const_value is None
        assert (lazily.dtype, lazily.shape) == (ir.DataType.FLOAT, ir.Shape([2]))
        assert held.const_value is not None
        del graph.initializers["w"]  # an optimizer may find it unused
        raise KeyError

    with pytest.raises(KeyError), hidden(model):
        inside()
    assert lazily.const_value is tensor
    assert list(graph.initializers) == ["five"]
    assert reads.count == 0


def rows_of(values: Array, step: int | None = None) -> tuple[Recipe, list[slice]]:
    """Return a recipe that can be read in parts, and the parts that were read."""
    read: list[slice] = []

    def some(rows: slice) -> Array:
        read.append(rows)
        return values[rows]

    def whole() -> Array:
        raise AssertionError

    return lazy("w", ir.DataType.from_numpy(values.dtype), values.shape, whole, some, step=step), read


def test_a_part_is_read_without_the_rest() -> None:
    tensor, read = rows_of(np.arange(20, dtype=np.float32).reshape(10, 2))
    assert divisible(tensor)
    assert part(tensor, slice(3, 5)).tolist() == [[6, 7], [8, 9]]
    assert read == [slice(3, 5)]


def test_a_part_of_what_cannot_be_divided_is_cut_out() -> None:
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    tensor, reads = weight(values)
    assert not divisible(tensor)
    assert not divisible(ir.tensor(values))
    for one in (tensor, ir.tensor(values)):
        np.testing.assert_array_equal(part(one, slice(3, 5)), values[3:5])
    assert reads.count == 1


@pytest.mark.parametrize("given", [np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float64)])
def test_a_part_must_keep_the_promise_too(given: Array) -> None:
    tensor = lazy("w", ir.DataType.FLOAT, (10, 2), lambda: np.zeros((10, 2), np.float32), lambda rows: given)
    with pytest.raises(Bug, match=r"declared was float32\[2, 2\]"):
        part(tensor, slice(3, 5))


@pytest.mark.parametrize(
    ("size", "rows"), [(80, [10]), (79, [9, 1]), (24, [3, 3, 3, 1]), (8, [1] * 10), (1, [1] * 10)]
)
def test_stretches_have_about_so_many_bytes(size: int, rows: list[int]) -> None:
    tensor, read = rows_of(np.zeros((10, 2), np.float32))
    found = stretches(tensor, size)
    assert [s.stop - s.start for s in found] == rows
    assert [i for s in found for i in range(s.start, s.stop)] == list(range(10))
    assert not read


def test_a_recipe_may_say_how_many_rows_are_best() -> None:
    tensor, _ = rows_of(np.zeros((10, 2), np.float32), step=4)
    for size in (1, 1000):
        assert stretches(tensor, size) == [slice(0, 4), slice(4, 8), slice(8, 10)]


@pytest.mark.parametrize("shape", [(10, 2), (), (0, 3)])
def test_what_cannot_be_divided_is_one_stretch(shape: tuple[int, ...]) -> None:
    tensor, _ = weight(np.zeros(shape, np.float32))
    assert stretches(tensor, 1) == [slice(0, shape[0] if shape else 1)]


def test_spans() -> None:
    assert spans(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert spans(6, 3) == [slice(0, 3), slice(3, 6)]
    assert spans(2, 3) == [slice(0, 2)]
    assert spans(0, 3) == []
