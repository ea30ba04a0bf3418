"""Conditions on tensors as such: sizes, ranks, types, quantization."""

import numpy as np

from m4c.targets.constraints import condition
from m4c.targets.view import Node, Tensor


@condition("make it a number with --size NAME=N, or export for a target with dynamic shapes")
def static_shape(node: Node) -> str | None:
    """Every size of every tensor is a number."""
    for tensor in node.tensors:
        if tensor.shape is None:
            return f"the rank of {tensor} is not known"
        names = [str(size) for size in tensor.shape if not isinstance(size, int)]
        if names:
            return f"{' and '.join(names)} of {tensor} can change from call to call"
    return None


@condition("make it a number with --size NAME=N")
def only_batch_changes(node: Node) -> str | None:
    """Only the first size of a tensor may change from call to call."""
    for tensor in node.tensors:
        if tensor.shape is None:
            return f"the rank of {tensor} is not known"
        names = [str(size) for size in tensor.shape[1:] if not isinstance(size, int)]
        if names:
            return f"{' and '.join(names)} of {tensor} can change from call to call"
    return None


@condition("reshape to fewer dimensions, or compute the parts in separate operators")
def rank_at_most(node: Node, rank: int) -> str | None:
    """No tensor has more than this many dimensions."""
    for tensor in node.tensors:
        if tensor.shape is not None and len(tensor.shape) > rank:
            return f"{tensor} has rank {len(tensor.shape)}, at most {rank} is possible"
    return None


@condition("reshape the operand of fewer dimensions, with sizes of 1 in front")
def operands_of_one_rank(node: Node) -> str | None:
    """Operands of which neither has the result's shape have one rank; ranks below 4 count as 4."""
    shapes = [operand.shape for operand in node.inputs if operand is not None]
    if None in shapes or any(shape == node.outputs[0].shape for shape in shapes):
        return None
    ranks = {max(len(shape), 4) for shape in shapes if shape is not None}
    return f"its operands have {' and '.join(map(str, sorted(ranks)))} dimensions" if len(ranks) > 1 else None


@condition("look rows up by a list of indices, and reshape what comes of it")
def indices_in_a_list(node: Node) -> str | None:
    """The second input has one dimension."""
    given = node.input(1)
    if given is None or given.shape is None or len(given.shape) == 1:
        return None
    return f"{given} has {len(given.shape)} dimensions, one is possible"


@condition("compute it before the model is written")
def computed_input(node: Node) -> str | None:
    """The first input is computed."""
    first = node.input(0)
    return f"{first} is stored" if first is not None and first.constant else None


@condition("set the batch to 1, and merge or split leading dimensions")
def three_inner_dimensions(node: Node) -> str | None:
    """Only the three innermost sizes of what flows between operators are larger than 1."""
    for tensor in node.activations:
        outer = (tensor.shape or ())[:-3]
        if any(isinstance(size, int) and size > 1 for size in outer):
            return f"{tensor} is larger than 1 outside of its three innermost dimensions"
    return None


@condition(
    "quantize the model with --quantize int8 and a calibration; what works on indices stays on the CPU"
)
def dtypes(node: Node, *dtypes: str) -> str | None:
    """What flows between operators has one of these types."""
    return _outside(node.activations, dtypes)


@condition("quantize the model with --quantize int8 and a calibration")
def constant_dtypes(node: Node, *dtypes: str) -> str | None:
    """Constants have one of these types."""
    return _outside(tuple(t for t in node.tensors if t.constant), dtypes)


@condition("cast to another type before it")
def input_dtypes(node: Node, *dtypes: str) -> str | None:
    """The first input has one of these types."""
    first = node.input(0)
    return None if first is None else _outside((first,), dtypes)


@condition("cast to another type before it")
def not_dtypes(node: Node, *dtypes: str) -> str | None:
    """What flows between operators has none of these types."""
    for tensor in node.activations:
        if tensor.dtype in dtypes:
            return f"{tensor} is {tensor.dtype}, which is not taken here"
    return None


def _outside(tensors: tuple[Tensor, ...], dtypes: tuple[str, ...]) -> str | None:
    """Say which tensor has none of ``dtypes``."""
    for tensor in tensors:
        if tensor.dtype not in dtypes:
            return f"{tensor} is {tensor.dtype}, not {' or '.join(dtypes)}"
    return None


@condition("make both of one type")
def same_dtype(node: Node, *dtypes: str) -> str | None:
    """Input and output have one type, which is one of these."""
    first = node.input(0)
    if first is None or not node.outputs:
        return None
    if first.dtype != node.outputs[0].dtype:
        return f"{first} and {node.outputs[0]} are of two types"
    return _outside((first,), dtypes)


@condition("leave the shape alone")
def same_shape(node: Node) -> str | None:
    """Input and output have one shape."""
    first = node.input(0)
    if first is None or not node.outputs or first.shape == node.outputs[0].shape:
        return None
    return f"{first} and {node.outputs[0]} have two shapes"


@condition("quantize the model with --quantize int8 and a calibration")
def quantized(node: Node) -> str | None:
    """Inputs, outputs and weights have scales, and every scale is positive."""
    for tensor in node.tensors:
        if tensor.dtype in ("int32", "int64", "bool") and tensor.constant:
            continue  # biases are scaled by what they are added to; shapes and axes are not numbers of the model
        if tensor.quantization is None:
            return f"{tensor} has no scale"
        if any(scale <= 0 for scale in tensor.quantization.scales):
            return f"{tensor} has a scale of {min(tensor.quantization.scales):g}"
    return None


@condition("quantize activations per tensor")
def per_tensor(node: Node) -> str | None:
    """Every tensor has one scale."""
    for tensor in node.tensors:
        if tensor.quantization is not None and len(tensor.quantization.scales) > 1:
            return f"{tensor} has {len(tensor.quantization.scales)} scales"
    return None


@condition("quantize with a zero point that its type allows")
def zero_points_of_u55(node: Node) -> str | None:
    """Zero points are 0 for int32 and not negative for unsigned types."""
    for tensor in node.tensors:
        points = tensor.quantization.zero_points if tensor.quantization else ()
        if tensor.dtype == "int32" and any(points):
            return f"{tensor} has the zero point {next(p for p in points if p)}, int32 must have 0"
        if tensor.dtype.startswith("uint") and any(point < 0 for point in points):
            return f"{tensor} has the zero point {min(points)}"
    return None


ZERO_POINTS = {"int8": (-128, 127), "uint8": (0, 255), "uint16": (0, 32768)}
"""The zero points of U85's inputs; every other type has 0."""


@condition("quantize with a zero point that its type allows")
def zero_points_of_u85(node: Node) -> str | None:
    """Zero points of inputs are -128 to 127 (int8), 0 to 255 (uint8), 0 or 32768 (uint16), else 0."""
    for tensor in node.inputs:
        points = tensor.quantization.zero_points if tensor and tensor.quantization else ()
        if tensor is None or not points:
            continue
        low, high = ZERO_POINTS.get(tensor.dtype, (0, 0))
        wrong = [
            p for p in points if not low <= p <= high or (tensor.dtype == "uint16" and p not in (low, high))
        ]
        if wrong:
            return f"{tensor} has the zero point {wrong[0]}, {low} to {high} is possible"
    return None


@condition("requantize an input, so that all three have one scale and one zero point")
def same_quantization(node: Node) -> str | None:
    """Inputs have the scale and the zero point of the output."""
    if not node.outputs:
        return None
    wanted = node.outputs[0].quantization
    for tensor in node.inputs:
        if tensor is not None and tensor.quantization != wanted and wanted is not None:
            return f"{tensor} has another scale than {node.outputs[0]}"
    return None


@condition(
    "write the model with an older TFLite, or let m4c write it: it chooses the oldest version that fits"
)
def version_at_most(node: Node, version: int) -> str | None:
    """The operator's version is not newer than this."""
    if node.version <= version:
        return None
    return f"{node.operator} has version {node.version}, at most {version} is read"


@condition("set the batch to 1")
def batch_one(node: Node) -> str | None:
    """The first size of a tensor of rank 4 is 1."""
    for tensor in node.activations:
        if tensor.shape is not None and len(tensor.shape) >= 4 and tensor.shape[0] not in (1, "?0"):
            return f"the batch of {tensor} is {tensor.shape[0]}"
    return None


@condition("split it into smaller parts")
def elements_at_most(node: Node, elements: int) -> str | None:
    """The input has at most so many values."""
    first = node.input(0)
    if first is None or first.elements is None or first.elements <= elements:
        return None
    return f"{first} has {first.elements:,} values, at most {elements:,} are possible"


@condition("join them in several steps")
def inputs_at_most(node: Node, count: int) -> str | None:
    """There are at most so many inputs."""
    return (
        None
        if len(node.inputs) <= count
        else f"it has {len(node.inputs)} inputs, at most {count} are possible"
    )


@condition("compute it for one row at a time, or reshape it to one dimension")
def one_dimensional(node: Node) -> str | None:
    """At most one size of the output is larger than 1."""
    for tensor in node.outputs:
        sizes = [size for size in tensor.shape or () if size != 1]
        if len(sizes) > 1:
            return f"{len(sizes)} sizes of {tensor} are larger than 1"
    return None


@condition("keep the values in the file; a weight that is computed cannot be loaded ahead")
def constant_inputs(node: Node, *indices: int) -> str | None:
    """The inputs at these places, if they are there, are constants."""
    for index in indices:
        tensor = node.input(index)
        if tensor is not None and tensor.name and not tensor.stored:
            return f"input {index}, {tensor}, is computed"
    return None


@condition("keep the values in the file; a weight that is computed cannot be loaded ahead")
def constant_or_dtype(node: Node, index: int, dtype: str) -> str | None:
    """The input at this place is a constant, or has this type."""
    tensor = node.input(index)
    if tensor is None or tensor.stored or tensor.dtype == dtype:
        return None
    return f"input {index}, {tensor}, is computed and not {dtype}"


@condition("make the input a tensor of one or more dimensions")
def no_scalar_input(node: Node, index: int) -> str | None:
    """The input at this place is no scalar."""
    tensor = node.input(index)
    return f"input {index}, {tensor}, is a scalar" if tensor is not None and tensor.shape == () else None


def axes(node: Node) -> tuple[int, ...] | None:
    """Return the axes that a reduction of TFLite names, counted from the front; None if they are computed."""
    first, given = node.input(0), node.input(1)
    values = given.values() if given is not None else None
    if first is None or first.shape is None or values is None:
        return None
    return tuple(int(axis) % len(first.shape) for axis in np.atleast_1d(values))
