"""Conditions on convolutions, pooling and linear layers: strides, dilations, kernels, weights, biases."""

import math

import numpy as np

from m4c.targets.constraints import condition
from m4c.targets.view import Node, Tensor

VALID = 1
"""``Padding.VALID`` in TFLite's schema."""


def _pair(node: Node, name: str, missing: int = 1) -> tuple[int, int]:
    """Return what an operator of TFLite has of ``name`` in height and width."""
    return int(node.options.get(f"{name}_h", missing)), int(node.options.get(f"{name}_w", missing))


def _dilation(node: Node) -> tuple[int, int]:
    """Return the dilation in height and width."""
    return int(node.options.get("dilation_h_factor", 1)), int(node.options.get("dilation_w_factor", 1))


def _kernel(node: Node) -> tuple[int, int]:
    """Return height and width of a pooling window."""
    return int(node.options.get("filter_height", 1)), int(node.options.get("filter_width", 1))


@condition("give it one dilation for both axes")
def equal_dilation(node: Node) -> str | None:
    """The dilation is equal in height and width."""
    height, width = _dilation(node)
    return None if height == width else f"the dilation is {height} in height and {width} in width"


@condition("leave the dilation out")
def no_dilation(node: Node) -> str | None:
    """There is no dilation."""
    height, width = _dilation(node)
    return None if height == width == 1 else f"the dilation is {height} by {width}"


@condition("split it into steps with smaller strides")
def stride_at_most(node: Node, stride: int) -> str | None:
    """Strides are at most this."""
    height, width = _pair(node, "stride")
    return None if max(height, width) <= stride else f"the stride is {height} by {width}, at most {stride}"


@condition("use VALID padding without dilation, or a smaller stride")
def stride_at_most_unless_valid(node: Node, stride: int) -> str | None:
    """Strides are at most this, or the padding is VALID and there is no dilation."""
    height, width = _pair(node, "stride")
    if max(height, width) <= stride:
        return None
    if node.options.get("padding") == VALID and _dilation(node) == (1, 1):
        return None
    return f"the stride is {height} by {width}, over {stride} it must be VALID and without dilation"


@condition("pool in several steps")
def average_window(node: Node) -> str | None:
    """With VALID padding the window has at most 65,536 values and a height of 256; with SAME it is at most 8 by 8."""
    height, width = _kernel(node)
    if node.options.get("padding") == VALID:
        return maximum_window(node)
    return None if max(height, width) <= 8 else f"the window is {height} by {width}, with SAME at most 8 by 8"


@condition("pool in several steps")
def maximum_window(node: Node) -> str | None:
    """The window has at most 65,536 values and a height of at most 256."""
    height, width = _kernel(node)
    if height * width <= 65_536 and height <= 256:
        return None
    return f"the window is {height} by {width}, at most 65,536 values and a height of 256 are possible"


@condition("quantize the weights to 8 bits")
def weights_of_8_bits(node: Node) -> str | None:
    """Weights have 8 bits."""
    weight = node.input(1)
    if weight is None or weight.dtype in ("int8", "uint8"):
        return None
    return f"the weight {weight} is {weight.dtype}"


@condition("split the input channels over two operators and add the results")
def weight_sum(node: Node, total: int) -> str | None:
    """The absolute weights of an output channel sum up to at most this."""
    weight = node.input(1)
    if weight is None or not weight.static or not weight.constant or not weight.elements:
        return None
    axis = 3 if node.operator == "DEPTHWISE_CONV_2D" else 0
    sizes = weight.sizes
    each = math.prod(sizes) // (sizes[axis] if axis < len(sizes) else 1)
    if each * 128 <= total:
        return None  # whatever the weights are: nothing need be read
    values = weight.values()
    if values is None:
        return None
    rest = tuple(i for i in range(len(sizes)) if i != axis)
    largest = int(np.abs(values.astype(np.int64)).sum(axis=rest).max())
    return None if largest <= total else f"the weights of a channel sum up to {largest:,}, at most {total:,}"


def _bias(node: Node) -> Tensor | None:
    """Return the bias: the third input, the fourth of a transposed convolution."""
    return node.input(3 if node.operator == "TRANSPOSE_CONV" else 2)


@condition("keep the bias in the file")
def constant_bias(node: Node) -> str | None:
    """The bias is constant."""
    bias = _bias(node)
    return f"the bias {bias} is computed" if bias is not None and not bias.stored else None


@condition("quantize the bias to int32")
def bias_dtypes(node: Node, *dtypes: str) -> str | None:
    """The bias has one of these types."""
    bias = _bias(node)
    if bias is None or bias.dtype in dtypes:
        return None
    return f"the bias {bias} is {bias.dtype}, not {' or '.join(dtypes)}"


@condition("add it with ADD instead")
def bias_along_channels(node: Node) -> str | None:
    """The bias has one value for each output channel."""
    bias = _bias(node)
    if bias is None or not bias.static or not node.outputs[0].static:
        return None
    channels = node.outputs[0].sizes[-1]
    return None if bias.elements in (1, channels) else f"the bias {bias} serves {channels} channels"


@condition("scale the bias down")
def bias_bits(node: Node, bits: int) -> str | None:
    """An int64 bias is below 2 to this power."""
    bias = _bias(node)
    values = bias.values() if bias is not None and bias.dtype == "int64" else None
    if values is None or int(np.abs(values).max(initial=0)) < 2**bits - 1:
        return None
    return f"the bias has {int(np.abs(values).max()):,}, it must be below 2^{bits} - 1"


@condition("choose padding and output size that belong together")
def transposed_output(node: Node) -> str | None:
    """The output of SAME is input × stride, of VALID input × stride + kernel − stride."""
    weight, data, out = node.input(1), node.input(2), node.outputs[0]
    if weight is None or data is None or not (weight.static and data.static and out.static):
        return None
    for axis, stride in zip((1, 2), _pair(node, "stride"), strict=True):
        wanted = data.sizes[axis] * stride
        if node.options.get("padding") == VALID:
            wanted += max(weight.sizes[axis] - stride, 0)
        if out.sizes[axis] != wanted:
            return f"{out} has {out.sizes[axis]} on axis {axis}, stride and padding give {wanted}"
    return None


@condition("choose a stride of 1 or 2")
def transposed_stride(node: Node) -> str | None:
    """Strides are 1 by 1 or 2 by 2; 2 along the width alone if input and kernel have height 1, and the other way round."""
    height, width = _pair(node, "stride")
    weight, data = node.input(1), node.input(2)
    if (height, width) in ((1, 1), (2, 2)) or weight is None or data is None:
        return None
    if not (weight.static and data.static):
        return None
    if (height, width) == (1, 2) and weight.sizes[1] == data.sizes[1] == 1:
        return None
    if (height, width) == (2, 1) and weight.sizes[2] == data.sizes[2] == 1:
        return None
    return f"the stride is {height} by {width}"


@condition("apply the activation in an operator of its own")
def no_fused_activation(node: Node) -> str | None:
    """There is no activation fused into it."""
    kind = node.options.get("fused_activation_function", 0)
    names = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
    return f"{names[kind] if kind < len(names) else kind} is fused into it" if kind else None


@condition("store the weights in the default format")
def default_weights_format(node: Node) -> str | None:
    """Weights have the default format."""
    kind = node.options.get("weights_format", 0)
    return f"the weights have the format {kind}" if kind else None


@condition("reshape the weights to a matrix")
def weights_are_a_matrix(node: Node) -> str | None:
    """The sizes of the weights between the first and the last are 1."""
    weight = node.input(1)
    if weight is None or all(size == 1 for size in (weight.shape or ())[1:-1]):
        return None
    return f"the weight {weight} is no matrix"


def _dynamic(node: Node) -> bool:
    """Return whether an operator multiplies two activations."""
    first, second = node.input(0), node.input(1)
    return first is not None and second is not None and not first.constant and not second.constant


@condition("quantize the activations to int8")
def two_activations_are(node: Node, *dtypes: str) -> str | None:
    """A product of two activations has inputs of one of these types."""
    first = node.input(0)
    if not _dynamic(node) or first is None or first.dtype in dtypes:
        return None
    return f"{first} is multiplied by an activation and is {first.dtype}, not {' or '.join(dtypes)}"


@condition("split the product")
def two_activations_at_most(node: Node, size: int) -> str | None:
    """A product of two activations has an output depth and a reduced axis of at most this."""
    first = node.input(0)
    if not _dynamic(node) or first is None or not first.static or not node.outputs[0].static:
        return None
    reduced = first.sizes[-2 if node.options.get("adj_x") else -1] if len(first.sizes) > 1 else 1
    depth = node.outputs[0].sizes[-1] if node.outputs[0].sizes else 1
    return None if max(reduced, depth) <= size else f"{reduced:,} are summed to {depth:,}, at most {size:,}"
