"""Weights in float16: the largest number that it has, and tensors that are converted when they are read."""

import numpy as np
import onnx_ir as ir

from m4c.weight_file import PIECE
from m4c.weights import Array, array, converted, part, stretches, turned, untransposed

LARGEST = float(np.finfo(np.float16).max)
"""Beyond this, a float16 is infinite."""

SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
"""The smallest positive float16, 2^-24."""

LOWEST = -LARGEST / 2
"""The most that a mask takes off a score in float16: more would be infinite with a score added, and NaN where all is hidden."""

SUFFIX = ".float16"
"""What follows the name of a weight in the name of the tensor that stores it."""


def ends(tensor: ir.TensorProtocol) -> tuple[float, float]:
    """Return the smallest and the largest finite number of ``tensor``, and 0: it is read once, in parts if it can be."""
    low, high = 0.0, 0.0
    for rows in stretches(tensor, PIECE):
        values = part(tensor, rows) if tensor.shape.numpy() else array(tensor)
        finite = values[np.isfinite(values)]
        low, high = min(low, float(finite.min(initial=0))), max(high, float(finite.max(initial=0)))
    return low, high


def half(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return ``tensor`` in float16, to be read while a file is written; a matrix turned around is told to be one again."""
    name, matrix = f"{tensor.name}{SUFFIX}", untransposed(tensor)
    if matrix is not None:
        return turned(name, half(matrix))
    return converted(tensor, name, ir.DataType.FLOAT16, tensor.shape.numpy(), _rounded)


def half_mask(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return ``tensor``, which hides scores by large negative numbers, in float16: by :data:`LOWEST` at most."""
    shape = tensor.shape.numpy()
    return converted(tensor, f"{tensor.name}.mask{SUFFIX}", ir.DataType.FLOAT16, shape, _limited)


def half_constant(values: Array) -> Array:
    """Return a constant in float16; what would become 0 is the smallest number, as it may keep a divisor from being 0."""
    made = _rounded(values)
    lost = (made == 0) & (values != 0)
    return np.asarray(np.where(lost, np.copysign(SMALLEST, values), made), np.float16)


def _rounded(values: Array) -> Array:
    return values.astype(np.float16)


def _limited(values: Array) -> Array:
    return np.asarray(np.maximum(values, np.float32(LOWEST)), np.float16)
