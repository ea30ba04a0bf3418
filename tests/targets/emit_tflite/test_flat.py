"""Stored tensors as bytes."""

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import Bug, UnsupportedError
from m4c.targets.emit_tflite import flat as flat_module
from m4c.targets.emit_tflite.flat import Content, Flat, Tensor
from m4c.weights import lazy

FLOAT = ir.DataType.FLOAT


def stored(values: np.ndarray, *shape: int, transposed: bool = False) -> Tensor:
    content = Content(ir.tensor(values), lambda held: held.T if transposed else held)
    return Tensor("t", ir.DataType.from_numpy(values.dtype), shape, None, content)


def test_a_transposed_weight_is_laid_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_module, "CHUNK_BYTES", 64)
    values = np.arange(60, dtype=np.float32).reshape(6, 10)
    pieces = list(stored(values, 10, 6, transposed=True).chunks())
    assert [len(piece) for piece in pieces] == [48] * 5
    assert b"".join(pieces) == values.T.tobytes()


def test_a_scalar_and_an_empty_tensor() -> None:
    assert b"".join(stored(np.array(2.5, np.float32)).chunks()) == np.float32(2.5).tobytes()
    assert b"".join(stored(np.zeros((0, 4), np.float32), 0, 4).chunks()) == b""


def test_int64_is_stored_in_32_bits() -> None:
    tensor = stored(np.array([1, -2], np.int64), 2)
    assert tensor.nbytes == 8
    assert b"".join(tensor.chunks()) == np.array([1, -2], np.int32).tobytes()


def test_a_layout_of_another_shape_is_a_bug() -> None:
    with pytest.raises(Bug, match=r"laid out as \[2, 3\], declared was \[3, 2\]"):
        list(stored(np.zeros((2, 3), np.float32), 3, 2).chunks())


def test_only_small_constants_in_memory_are_packed_with_the_structure() -> None:
    assert not stored(np.zeros(64, np.float32), 64).streamed
    assert stored(np.zeros(65, np.float32), 65).streamed
    held = lazy("w", FLOAT, (2,), lambda: np.zeros(2, np.float32))
    assert Tensor("w", FLOAT, (2,), None, Content(held, lambda values: values)).streamed
    assert not Tensor("x", FLOAT, (2,)).streamed


def test_operator_codes_are_shared() -> None:
    made = Flat("g")
    for code, version in ((0, 1), (0, 1), (0, 2), (18, 1)):
        made.operator(code, [0], [1], None, version)
    assert made.codes == {(0, 1): 0, (0, 2): 1, (18, 1): 2}
    assert [operator.opcodeIndex for operator in made.operators] == [0, 0, 1, 2]


def test_a_type_without_a_place_in_the_file() -> None:
    with pytest.raises(UnsupportedError, match=r"x is DOUBLE.*\n.*\n.*fix: cast"):
        Flat("g").tensor(Tensor("x", ir.DataType.DOUBLE, (2,)))
