"""The canonical form of operators that compute: what :mod:`m4c.passes.canonicalize` does to each.

A form either replaces its node and says how, or leaves it untouched and returns None.
"""

import numpy as np
import onnx_ir as ir

from m4c.model import fresh_name, value_names
from m4c.rewrite import Replacement, attribute, bypass, same_shape, static
from m4c.weights import Array, array, lazy, small, stored, stored_value

TINY = 1e-6
"""A lower bound on a norm up to this is there against division by zero, not part of the model."""


def gemm(node: ir.Node) -> str | None:
    """Gemm(x, W, b) → Add(MatMul(x, W), b)."""
    x, weight, *bias = node.inputs
    assert weight is not None
    if (
        attribute(node, "alpha", 1.0) != 1
        or attribute(node, "beta", 1.0) != 1
        or attribute(node, "transA", 0)
    ):
        return None
    edit, shape = Replacement(node), node.outputs[0].shape
    if attribute(node, "transB", 0):
        assert weight.shape is not None
        turned = ir.Shape(weight.shape[::-1])
        weight = edit.op("Transpose", [weight], {"perm": [1, 0]}, shape=turned, dtype=weight.dtype)
    made = edit.op("MatMul", [x, weight], shape=shape)
    if bias and bias[0] is not None:
        made = edit.op("Add", [made, bias[0]], shape=shape)
    edit.finish(made)
    return "Gemm became MatMul and Add"


def power(node: ir.Node) -> str | None:
    """x² → x · x."""
    data, exponent = node.inputs[0], small(node.inputs[1])
    assert data is not None
    if exponent is None or exponent.size != 1 or exponent.item() != 2:
        return None
    if data.shape is None or exponent.ndim > len(data.shape):
        return None
    edit = Replacement(node)
    edit.finish(edit.op("Mul", [data, data], shape=node.outputs[0].shape))
    return "Pow by 2 became Mul"


def multiply(node: ir.Node) -> str | None:
    """x · 1/y → x / y; x · 1 → x."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        assert value is not None
        assert other is not None
        maker = value.producer()
        if maker is not None and maker.op_type == "Reciprocal" and not maker.domain:
            edit = Replacement(node)
            edit.finish(edit.op("Div", [other, maker.inputs[0]], shape=node.outputs[0].shape))
            return "Mul by a Reciprocal became Div"
        factor = small(value)
        one = factor is not None and factor.size == 1 and factor.item() == 1
        if one and same_shape(other, node.outputs[0]) and bypass(node, other):
            return "Mul by 1 removed"
    return None


def reciprocal(node: ir.Node) -> str | None:
    """1/y where something else than a product reads it → Div(1, y)."""
    output = node.outputs[0]
    if output.dtype != ir.DataType.FLOAT:
        return None
    # A Mul that reads it becomes a Div first: what is left to do is seen in the next round.
    if output.uses() and all(use.node.op_type == "Mul" for use in output.uses()):
        return None
    edit = Replacement(node)
    edit.finish(edit.op("Div", [edit.constant("one", 1.0), node.inputs[0]], shape=output.shape))
    return "Reciprocal became Div"


def negate(node: ir.Node) -> str | None:
    """-x → x · -1."""
    if node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    edit = Replacement(node)
    product = edit.op("Mul", [node.inputs[0], edit.constant("minus_one", -1.0)], shape=node.outputs[0].shape)
    edit.finish(product)
    return "Neg became Mul"


def divide(node: ir.Node) -> str | None:
    """x / max(‖x‖₂, tiny) → LpNormalization: equal wherever ‖x‖₂ > tiny, and 0 at x = 0 in both."""
    x, bound = node.inputs
    clip = _skip_expand(bound)
    if x is None or clip is None or clip.op_type != "Clip" or clip.domain or clip.inputs[0] is None:
        return None
    norm = clip.inputs[0].producer()
    if norm is None or norm.op_type != "ReduceL2" or norm.domain or norm.inputs[0] is not x:
        return None
    axis, low = _only_axis(norm), _only_minimum(clip)
    if axis is None or low is None or not 0 < low <= TINY:
        return None
    if x.dtype != ir.DataType.FLOAT or x.shape is None or not same_shape(x, node.outputs[0]):
        return None
    edit = Replacement(node)
    normal = {"axis": axis % len(x.shape), "p": 2}
    edit.finish(edit.op("LpNormalization", [x], normal, shape=node.outputs[0].shape))
    return "division by the norm became LpNormalization"


def _skip_expand(value: ir.Value | None) -> ir.Node | None:
    """Return the node that makes ``value``, or makes what was expanded to it."""
    maker = value.producer() if value is not None else None
    if maker is not None and maker.op_type == "Expand" and not maker.domain and maker.inputs[0] is not None:
        return maker.inputs[0].producer()
    return maker


def _only_axis(norm: ir.Node) -> int | None:
    """Return the axis that a reduction keeps with size 1, if it is one known axis."""
    axes = small(norm.inputs[1]) if len(norm.inputs) > 1 else None
    if axes is None or axes.size != 1 or not attribute(norm, "keepdims", 1):
        return None
    return int(axes.item())


def _only_minimum(clip: ir.Node) -> float | None:
    """Return the lower bound of a Clip that has no upper one."""
    bounds = clip.inputs[1:]
    low = small(bounds[0]) if bounds else None
    if low is None or low.size != 1 or any(bound is not None for bound in bounds[1:]):
        return None
    return float(low.item())


def batch_normalization(node: ir.Node) -> str | None:
    """BatchNormalization after a Conv that nothing else reads → part of the Conv's weights, lazily."""
    x = node.inputs[0]
    assert x is not None
    conv = x.producer()
    if conv is None or conv.op_type != "Conv" or conv.domain or attribute(node, "training_mode", 0):
        return None
    weight, bias = conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
    parts = [weight, *node.inputs[1:], *([bias] if bias is not None else [])]
    if len(x.uses()) != 1 or x.is_graph_output() or not all(_float_weight(part) for part in parts):
        return None
    scale, shift, mean, variance = (_tensor(v) for v in node.inputs[1:])
    kernel, old = _tensor(weight), _tensor(bias) if bias is not None else None
    epsilon = np.float32(attribute(node, "epsilon", 1e-5))

    def gain() -> Array:
        return np.asarray(array(scale) / np.sqrt(array(variance) + epsilon))

    def folded_kernel() -> Array:
        values = array(kernel)
        return np.asarray(values * gain().reshape(-1, *[1] * (values.ndim - 1)))

    def folded_bias() -> Array:
        before = array(old) if old is not None else np.float32(0)
        return np.asarray((before - array(mean)) * gain() + array(shift))

    edit, shape = Replacement(node), static(weight)
    assert weight is not None
    assert shape is not None
    # Fresh names, as one kernel may come before several normalizations, and one normalization after several kernels.
    taken = value_names(edit.graph)
    names = [fresh_name(taken, f"{weight.name}.{suffix}") for suffix in ("normalized", "offset")]
    operands = [
        edit.weight(stored_value(lazy(name, ir.DataType.FLOAT, dims, read)))
        for name, dims, read in zip(names, (shape, shape[:1]), (folded_kernel, folded_bias), strict=True)
    ]
    attributes = {name: found.value for name, found in conv.attributes.items()}
    edit.finish(edit.op("Conv", [conv.inputs[0], *operands], attributes, shape=x.shape))
    return "BatchNormalization became part of the Conv before it"


def _float_weight(value: ir.Value | None) -> bool:
    """Return whether ``value`` is stored as float32."""
    return stored(value) and value is not None and value.dtype == ir.DataType.FLOAT


def _tensor(value: ir.Value | None) -> ir.TensorProtocol:
    """Return the tensor of a stored value."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value
