"""The canonical form of convolutions: what :mod:`m4c.passes.canonicalize` does to each.

A form either changes its node and says how, or leaves it untouched and returns None.
"""

from collections.abc import Sequence

import onnx_ir as ir

from m4c.rewrite import attribute, static


def explicit_pads(node: ir.Node) -> str | None:
    """``auto_pad`` and ``output_shape`` → ``pads``, so that whoever reads a window finds its padding in one place.

    Where the padding follows from a size that is unknown, the node stays; so does a ConvTranspose whose result is larger
    than padding can make it.
    """
    kind, wanted = attribute(node, "auto_pad", "NOTSET"), attribute(node, "output_shape")
    kernel = static(node.inputs[1])
    if (kind == "NOTSET" and wanted is None) or kernel is None:
        return None
    rank = len(kernel) - 2
    totals: Sequence[int | None] = [0] * rank
    if node.op_type == "ConvTranspose":
        if kind != "VALID" or wanted is not None:
            totals = _taken(node, kernel[2:], wanted)
    elif kind != "VALID":
        totals = _added(node, kernel[2:])
    sizes = [total for total in totals if total is not None and total >= 0]
    if len(sizes) < rank:
        return None
    # An odd one is at the end with SAME_UPPER; ONNX has it at the beginning with all else.
    before = [total // 2 if kind == "SAME_UPPER" else total - total // 2 for total in sizes]
    after = [total - first for total, first in zip(sizes, before, strict=True)]
    for name in ("auto_pad", "output_shape"):
        node.attributes.pop(name, None)
    node.attributes["pads"] = ir.AttrInt64s("pads", [*before, *after])
    return f"{node.op_type} has its padding as pads"


def _added(node: ir.Node, kernel: Sequence[int]) -> list[int | None]:
    """Return how much SAME pads each axis of a Conv: outputs are inputs / stride, rounded up."""
    totals: list[int | None] = []
    for size, stride, extent in zip(_spatial(node), _steps(node), _extents(node, kernel), strict=True):
        if stride == 1:
            totals.append(extent - 1)
        elif size is None:
            totals.append(None)
        else:
            totals.append(max((-(-size // stride) - 1) * stride + extent - size, 0))
    return totals


def _taken(node: ir.Node, kernel: Sequence[int], wanted: Sequence[int] | None) -> list[int | None]:
    """Return how much is cut from each axis of a ConvTranspose for ``wanted`` outputs, else inputs · stride."""
    rank = len(kernel)
    beyond = attribute(node, "output_padding", [0] * rank)
    totals: list[int | None] = []
    for axis, (size, stride, extent) in enumerate(
        zip(_spatial(node), _steps(node), _extents(node, kernel), strict=True)
    ):
        if size is None:
            totals.append(None if wanted else extent + beyond[axis] - stride)
            continue
        made = wanted[axis - rank] if wanted else size * stride
        totals.append((size - 1) * stride + extent + beyond[axis] - made)
    return totals


def _spatial(node: ir.Node) -> list[int | None]:
    """Return the sizes of the image or signal that ``node`` reads, None for one that is unknown."""
    data = node.inputs[0]
    assert data is not None
    assert data.shape is not None
    return [size if isinstance(size, int) else None for size in data.shape[2:]]


def _steps(node: ir.Node) -> Sequence[int]:
    return tuple(attribute(node, "strides", [1] * len(_spatial(node))))


def _extents(node: ir.Node, kernel: Sequence[int]) -> list[int]:
    """Return how far a dilated kernel reaches along each axis."""
    dilations = attribute(node, "dilations", [1] * len(kernel))
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
