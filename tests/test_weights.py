import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import Bug
from m4c.weights import (
    Array,
    array,
    constant,
    derive,
    hidden,
    is_weight,
    lazy,
    register,
    small,
    stored,
    stored_value,
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
