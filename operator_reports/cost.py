"""What an operator call costs: multiply-accumulates and bytes, from shapes and types alone.

Counted are the products of convolutions, linear layers, matrix products, attention and recurrent layers; all else has none.
Bytes are those of every tensor that is read or written, once each: what moves if nothing is kept on the chip. Of a tensor whose
size changes from call to call nothing is known, and a sum says of how many nodes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from m4c.targets.rules import Figures
from m4c.targets.view import Node, Tensor


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-accumulates and bytes of some nodes; ``unknown`` of them have a size that is not known, and count as none."""

    macs: int = 0
    bytes: int = 0
    unknown: int = 0

    def seconds(self, figures: Figures, streamed: int | None = None) -> float | None:
        """Return the least time that hardware with ``figures`` needs: the longest of computing, moving and streaming.

        A multiply-accumulate is two operations; ``streamed`` are bytes of parameters that do not fit on the chip. None where no
        figure is known.
        """
        times = []
        if figures.operations_per_second:
            times.append(2 * self.macs / figures.operations_per_second)
        if figures.bytes_per_second:
            times.append(self.bytes / figures.bytes_per_second)
        if figures.streamed_bytes_per_second and streamed:
            times.append(streamed / figures.streamed_bytes_per_second)
        return max(times, default=None)


def cost(nodes: Iterable[Node]) -> Cost:
    """Return what ``nodes`` cost together."""
    macs = moved = unknown = 0
    for node in nodes:
        known = multiplied(node)
        sizes = [tensor.bytes for tensor in dict.fromkeys(node.tensors)]
        macs += known or 0
        moved += sum(size or 0 for size in sizes)
        unknown += known is None or None in sizes
    return Cost(macs, moved, unknown)


def parameter_bytes(nodes: Iterable[Node]) -> int:
    """Return how many bytes of constants ``nodes`` read, each constant once."""
    constants = {tensor for node in nodes for tensor in node.tensors if tensor.constant}
    return sum(tensor.bytes or 0 for tensor in constants)


def multiplied(node: Node) -> int | None:
    """Return how many multiply-accumulates a node makes, None if a size is not known."""
    count = PRODUCTS.get(node.operator)
    if count is None:
        return 0
    if any(not tensor.static for tensor in (*node.inputs[:2], *node.outputs[:1]) if tensor is not None):
        return None
    return count(node)


def _elements(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.elements or 0


def _sizes(node: Node, index: int) -> tuple[int, ...]:
    tensor = node.input(index)
    return () if tensor is None or not tensor.static else tensor.sizes


def _by_kernel(node: Node) -> int:
    """Return outputs × weights of an output channel: a convolution of TFLite, or a linear layer, weights [out, …, in]."""
    weight = _sizes(node, 1)
    return _elements(node.outputs[0]) * math.prod(weight[1:])


def _by_window(node: Node) -> int:
    """Return outputs × window: a depthwise convolution of TFLite, weights [1, height, width, channels]."""
    weight = _sizes(node, 1)
    return _elements(node.outputs[0]) * math.prod(weight[1:3])


def _transposed(node: Node) -> int:
    """Return inputs × weights of an input channel: a transposed convolution of TFLite, weights [out, height, width, in]."""
    weight = _sizes(node, 1)
    return _elements(node.input(2)) * math.prod(weight[:3])


def _matrix(node: Node) -> int:
    """Return outputs × summed terms: the last axis of the first matrix, the one before if it is taken transposed."""
    first = _sizes(node, 0)
    if not first:
        return 0
    turned = node.options.get("adj_x") or node.options.get("transA")
    return _elements(node.outputs[0]) * first[-2 if turned and len(first) > 1 else -1]


def _convolution(node: Node) -> int:
    """Return outputs × weights of an output channel, weights [out, in / groups, …] of ONNX."""
    return _elements(node.outputs[0]) * math.prod(_sizes(node, 1)[1:])


def _convolution_transposed(node: Node) -> int:
    """Return inputs × weights of an input channel, weights [in, out / groups, …] of ONNX."""
    return _elements(node.input(0)) * math.prod(_sizes(node, 1)[1:])


def _packed(node: Node) -> int:
    """Return outputs × summed terms of a product by packed weights."""
    return _elements(node.outputs[0]) * int(node.options.get("K", 0))


def _recurrent(node: Node) -> int:
    """Return steps × (weights + recurrent weights) of an LSTM, GRU or RNN of ONNX, inputs [steps, batch, size]."""
    steps = _sizes(node, 0)
    return math.prod(steps[:2]) * (_elements(node.input(1)) + _elements(node.input(2)))


def _attention(node: Node) -> int:
    """Return scores and weighted sums of attention: queries × keys × width, twice; batch-first, rank 3 or 4."""
    query, key = _sizes(node, 0), _sizes(node, 1)
    if len(query) not in (3, 4) or len(key) != len(query):
        return 0
    return 2 * math.prod(query) * key[-2]


PRODUCTS: dict[str, Callable[[Node], int]] = {
    "CONV_2D": _by_kernel,
    "CONV_3D": lambda node: _elements(node.outputs[0]) * math.prod(_sizes(node, 1)[:4]),
    "DEPTHWISE_CONV_2D": _by_window,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _by_kernel,
    "BATCH_MATMUL": _matrix,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _convolution_transposed,
    "com.microsoft::FusedConv": _convolution,
    "Gemm": _matrix,
    "MatMul": _matrix,
    "MatMulInteger": _matrix,
    "com.microsoft::FusedMatMul": _matrix,
    "com.microsoft::MatMulNBits": _packed,
    "com.microsoft::MatMulBnb4": _packed,
    "QLinearMatMul": _matrix,
    "QLinearConv": lambda node: _elements(node.outputs[0]) * math.prod(_sizes(node, 3)[1:]),
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention,
    "com.microsoft::MultiHeadAttention": _attention,
    "com.microsoft::GroupQueryAttention": _attention,
}
"""How the operators that multiply count."""
