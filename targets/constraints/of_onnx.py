"""Conditions on operators of ONNX: their attributes, opsets and types."""

import re
from functools import cache

import numpy as np
import onnx

from m4c.targets.constraints import condition
from m4c.targets.view import Node

KERNEL = re.compile(r"(\d+)-(\d*)(.*)")
ONNX_NAMES = {"float": "float32", "double": "float64"}


@condition("use windows over height and width alone")
def window_dimensions(node: Node, *dimensions: int) -> str | None:
    """The window moves over so many dimensions (the rank without batch and channels)."""
    first = node.input(0)
    if first is None or first.shape is None or len(first.shape) - 2 in dimensions:
        return None
    return (
        f"{first} has {len(first.shape) - 2} dimensions to move over, not {' or '.join(map(str, dimensions))}"
    )


@condition("choose that value")
def attribute(node: Node, name: str, *values: str) -> str | None:
    """The attribute, where it is given, has one of these values."""
    given = node.options.get(name)
    if given is None or _text(given) in values:
        return None
    return f"{name} is {_text(given)}, not {' or '.join(values)}"


@condition("leave it out")
def without_attribute(node: Node, name: str) -> str | None:
    """The attribute is not given."""
    return f"it has {name}" if name in node.options else None


def _text(value: object) -> str:
    """Return an attribute as profiles write it: 1.0 is 1."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@condition("pass the second matrix transposed, with transB=1")
def constant_or_transposed(node: Node) -> str | None:
    """The second matrix is constant, or transB is 1."""
    second = node.input(1)
    if second is None or second.stored or node.options.get("transB", 0) == 1:
        return None
    return f"{second} is computed, and transB is 0"


@condition("choose a count that divides the axis")
def even_split(node: Node) -> str | None:
    """The parts have equal sizes."""
    axis = int(node.options.get("axis", 0))
    sizes = {t.shape[axis] for t in node.outputs if t.shape}
    return (
        None
        if len(sizes) <= 1
        else f"the parts have the sizes {', '.join(map(str, sorted(map(str, sizes))))}"
    )


@condition("pad by 0 or more")
def pads_not_negative(node: Node) -> str | None:
    """Paddings are not negative."""
    given = node.input(1)
    values = given.values() if given is not None else None
    if values is None or not (np.asarray(values) < 0).any():
        return None
    return f"it pads by {int(np.min(values))}"


@condition("choose axis=-1, which is the same for a matrix")
def last_axis(node: Node) -> str | None:
    """It works along the last axis."""
    first, axis = node.input(0), int(node.options.get("axis", -1 if node.version >= 13 else 1))
    if first is None or first.shape is None or axis in (-1, len(first.shape) - 1):
        return None
    return f"it works along axis {axis} of {first}"


@condition("convert the model to a newer opset, or cast to a type that there is a kernel for")
def kernels(node: Node, registered: str) -> str | None:
    """There is a kernel for the opset and the types: since-until and types of each variable, kernels separated by ``;``."""
    ranges = [_kernel(text.strip()) for text in registered.split(";")]
    fitting = [types for first, last, types in ranges if first <= _since(node) <= last]
    if not fitting:
        return f"there is no kernel of {node.operator} for opset {node.version}"
    reasons = [reason for types in fitting if (reason := _wrong_type(node, types))]
    return reasons[0] if len(reasons) == len(fitting) else None


@cache
def _kernel(text: str) -> tuple[int, int, dict[str, frozenset[str]]]:
    """Return first and last opset of a kernel, and the types of each type variable."""
    found = KERNEL.fullmatch(text)
    assert found is not None, text
    types = {}
    for part in found[3].split():
        name, _, allowed = part.partition("=")
        types[name] = frozenset(allowed.split("|"))
    return int(found[1]), int(found[2] or 10**6), types


def _schema(node: Node) -> onnx.defs.OpSchema | None:
    """Return ONNX's own definition of the operator, if it has one."""
    try:
        return onnx.defs.get_schema(node.operator, node.version)
    except onnx.defs.SchemaError:
        return None


def _since(node: Node) -> int:
    """Return the opset that the operator of a model is of."""
    schema = _schema(node)
    return node.version if schema is None else int(schema.since_version)


def _wrong_type(node: Node, types: dict[str, frozenset[str]]) -> str | None:
    """Say which input has a type that the kernel does not take."""
    schema = _schema(node)
    if schema is None or not schema.inputs:
        return None
    for index, tensor in enumerate(node.inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        allowed = types.get(formal.type_str)
        if tensor is None or allowed is None or tensor.dtype == "unknown" or tensor.dtype in allowed:
            continue
        return f"{tensor} is {tensor.dtype}, there are kernels for {', '.join(sorted(allowed))}"
    return None
