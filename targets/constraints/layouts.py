"""Conditions on operators that reduce, cut, join, pad, resize or reorder tensors of TFLite."""

import math

import numpy as np

from m4c.targets.constraints import condition
from m4c.targets.constraints.tensors import axes
from m4c.targets.view import Node, Tensor


def _values(node: Node, index: int) -> list[int] | None:
    """Return the whole numbers of a constant input."""
    given = node.input(index)
    values = given.values() if given is not None else None
    return None if values is None else [int(x) for x in np.atleast_1d(values).ravel()]


def _sizes(tensor: Tensor | None) -> tuple[int, ...] | None:
    return tensor.sizes if tensor is not None and tensor.static else None


@condition("reduce one sample at a time")
def not_over_batch(node: Node) -> str | None:
    """The first axis of a tensor of rank 4 is not reduced, joined, cut or padded."""
    first = node.input(0)
    if first is None or first.shape is None or len(first.shape) < 4:
        return None
    if node.operator in ("PACK", "CONCATENATION"):
        found = [int(node.options.get("axis", 0)) % len(first.shape)]
    elif node.operator in ("PAD", "PADV2", "MIRROR_PAD"):
        pads = _values(node, 1)
        found = [0] if pads is not None and any(pads[:2]) else []
    elif node.operator == "SPLIT":
        found = [axis % len(first.shape) for axis in _values(node, 0) or []]
    else:
        found = list(axes(node) or ())
    return f"it works along the batch of {first}" if 0 in found else None


@condition("pad the channels to a multiple, or average with a 1×1 convolution")
def channels_multiple_of(node: Node, count: int) -> str | None:
    """Over channels only if their number is a multiple of this."""
    first, over = node.input(0), axes(node)
    if first is None or first.shape is None or not over or len(first.shape) - 1 not in over:
        return None
    channels = first.shape[-1]
    if isinstance(channels, int) and channels % count == 0:
        return None
    return f"the {channels} channels of {first} are no multiple of {count}"


@condition("reduce height and width alone")
def only_over_height_and_width(node: Node) -> str | None:
    """Only height and width are reduced or padded."""
    first = node.input(0)
    if first is None or first.shape is None or len(first.shape) < 3:
        return None
    rank = len(first.shape)
    if node.operator == "PAD":
        pads = _values(node, 1) or []
        found = [axis for axis in range(len(pads) // 2) if any(pads[2 * axis : 2 * axis + 2])]
    else:
        found = list(axes(node) or ())
    wrong = [axis for axis in found if axis not in (rank - 3, rank - 2)]
    return f"it works along axis {wrong[0]} of {first}" if wrong else None


@condition("add the constant with an operator of its own, or pad with zeros")
def constant_input_is_zero_padding(node: Node) -> str | None:
    """A constant input is there only beside one other input, and it is all zeros."""
    constant = [tensor for tensor in node.inputs if tensor is not None and tensor.constant]
    if not constant:
        return None
    if len(node.inputs) != 2:
        return f"{constant[0]} is constant, and there are {len(node.inputs)} inputs, not 2"
    values, scales = constant[0].values(), constant[0].quantization
    zero = scales.zero_points[0] if scales and scales.zero_points else 0
    if values is not None and np.all(values == zero):
        return None
    return f"{constant[0]} is constant and not all zeros"


@condition("use a slope for each channel (in Keras shared_axes=[1, 2])")
def slope_along_channels(node: Node) -> str | None:
    """The slope is larger than 1 only in the innermost size."""
    slope = node.input(1)
    if slope is None or all(size == 1 for size in (slope.shape or ())[:-1]):
        return None
    return f"the slope {slope} changes within a channel"


@condition("squeeze only in front, or reshape")
def squeezes_in_front(node: Node) -> str | None:
    """No memory moves: sizes of 1 lead."""
    first = node.input(0)
    if first is None or first.shape is None or len(first.shape) < 3:
        return None
    return None if first.shape[0] == 1 else f"{first} does not begin with a size of 1"


@condition("use SLICE, or steps of 1 without masks")
def plain_strided_slice(node: Node) -> str | None:
    """Steps are 1, and there is no ellipsis and no new axis."""
    steps = _values(node, 3)
    if steps is None:
        return "the steps are computed"
    if any(step != 1 for step in steps):
        return f"the steps are {', '.join(map(str, steps))}"
    marks = [name for name in ("ellipsis_mask", "new_axis_mask") if node.options.get(name)]
    return f"it has {' and '.join(marks)}" if marks else None


@condition("cut forward, and leave something")
def forward_slice(node: Node) -> str | None:
    """The result is not empty, and steps are not negative."""
    steps = _values(node, 3) or []
    if any(step < 0 for step in steps):
        return f"the steps are {', '.join(map(str, steps))}"
    return f"{node.outputs[0]} is empty" if node.outputs and node.outputs[0].elements == 0 else None


@condition("split into as many parts as are used")
def splits_are_outputs(node: Node) -> str | None:
    """The number of splits is that of the outputs."""
    count = int(node.options.get("num_splits", len(node.outputs)))
    return None if count == len(node.outputs) else f"{count} splits have {len(node.outputs)} outputs"


MEAN_ELEMENTS = {"int8": 16_777_216, "uint8": 8_388_608, "int16": 65_536}
"""How many values one mean may have."""


@condition("reduce in several steps")
def mean_elements(node: Node) -> str | None:
    """At most 16,777,216 values are averaged in int8, 8,388,608 in uint8, 65,536 in int16."""
    first, over = node.input(0), axes(node)
    sizes = _sizes(first)
    if first is None or sizes is None or over is None or first.dtype not in MEAN_ELEMENTS:
        return None
    count, most = math.prod(sizes[axis] for axis in over), MEAN_ELEMENTS[first.dtype]
    return None if count <= most else f"{count:,} values are averaged, at most {most:,} in {first.dtype}"


@condition("reduce in several steps")
def reduced_axis_below(node: Node, size: int) -> str | None:
    """A reduced axis is shorter than this."""
    sizes, over = _sizes(node.input(0)), axes(node)
    if sizes is None or over is None:
        return None
    long = [sizes[axis] for axis in over if sizes[axis] >= size]
    return f"an axis of {long[0]:,} is reduced, it must be below {size:,}" if long else None


@condition("transpose first, or reduce in two steps")
def mean_over_depth(node: Node) -> str | None:
    """Over depth only where height, width or depth is 1."""
    sizes, over = _sizes(node.input(0)), axes(node)
    if sizes is None or over is None or len(sizes) - 1 not in over or len(sizes) < 3:
        return None
    return None if 1 in sizes[-3:] else f"{node.input(0)} is averaged over depth"


@condition("split the rows over several operators")
def rows_below(node: Node, rows: int) -> str | None:
    """Height × width is below this."""
    sizes = _sizes(node.input(0))
    if sizes is None:
        return None
    count = math.prod(sizes[:-1][-2:])
    return None if count < rows else f"{node.input(0)} has {count:,} rows, it must be below {rows:,}"


@condition("take the largest along the last axis")
def along_depth(node: Node) -> str | None:
    """It works along depth alone."""
    first, axis = node.input(0), _values(node, 1)
    if first is None or first.shape is None or axis is None or not first.shape:
        return None
    wanted = len(first.shape) - 1
    return None if axis[0] % len(first.shape) == wanted else f"it works along axis {axis[0]} of {first}"


@condition("split the depth")
def depth_at_most(node: Node, depth: int) -> str | None:
    """The depth is at most this."""
    sizes = _sizes(node.input(0))
    return None if not sizes or sizes[-1] <= depth else f"{node.input(0)} has a depth over {depth}"


SWAPS = {(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)}
"""NHWC, NWHC and NHCW: what U55 can write."""


@condition("transpose in steps of two axes")
def transpose_of_u55(node: Node) -> str | None:
    """Int32 has rank 4 and swaps neighbours alone; other permutations have products of all but two axes of 65,536 at most."""
    first, order = node.input(0), _values(node, 1)
    sizes = _sizes(first)
    if first is None or sizes is None or order is None:
        return None
    padded = tuple(range(4 - len(order))) + tuple(axis + 4 - len(order) for axis in order)
    if len(order) <= 4 and padded in SWAPS:
        long = max(sizes, default=1) > 65_536 and padded != (0, 1, 2, 3)
        return f"{first} has an axis over 65,536" if long else None
    if first.dtype == "int32":
        return f"{first} is int32 and is reordered to {', '.join(map(str, order))}"
    largest = math.prod(sorted(sizes)[2:])
    return None if largest <= 65_536 else f"N-2 axes of {first} have {largest:,} values, at most 65,536"


def _scales(node: Node) -> tuple[float, float] | None:
    """Return how much a resize enlarges height and width, None if a size is not known."""
    before, after = _sizes(node.input(0)), _sizes(node.outputs[0])
    if before is None or after is None or len(before) != 4 or before[1:3] == after[1:3]:
        return None
    cut = 1 if node.options.get("align_corners") else 0
    if min(before[1:3]) - cut < 1:
        return None
    return (after[1] - cut) / (before[1] - cut), (after[2] - cut) / (before[2] - cut)


@condition("enlarge by 2, 4 or 8, one scale for both axes")
def resize_of_u55(node: Node) -> str | None:
    """Both axes have one scale of 2, 4 or 8; bilinear with half-pixel centers is 2."""
    scales = _scales(node)
    half = node.options.get("half_pixel_centers") and node.operator == "RESIZE_BILINEAR"
    allowed = (2,) if half else (2, 4, 8)
    if scales is None or (scales[0] == scales[1] and scales[0] in allowed):
        return None
    return f"it enlarges by {scales[0]:g} and {scales[1]:g}, not by {' or '.join(map(str, allowed))}"


@condition("enlarge in several steps")
def resize_at_most(node: Node, scale: int) -> str | None:
    """The scale is at most this, twice this with aligned corners."""
    scales, most = _scales(node), scale * (2 if node.options.get("align_corners") else 1)
    return (
        None if scales is None or max(scales) <= most else f"it enlarges by {max(scales):g}, at most {most}"
    )


@condition("enlarge by a power of two")
def resize_by_power_of_two(node: Node) -> str | None:
    """The scale is a power of two."""
    scales = _scales(node)
    if scales is None or all(s >= 1 and math.log2(s).is_integer() for s in scales):
        return None
    return f"it enlarges by {scales[0]:g} and {scales[1]:g}"


@condition("use one of the two")
def corners_or_centers(node: Node) -> str | None:
    """Corners are aligned, or centers are half pixels, not both."""
    both = node.options.get("align_corners") and node.options.get("half_pixel_centers")
    return "it has align_corners and half_pixel_centers" if both else None


@condition("reverse with a gather")
def no_axis(node: Node) -> str | None:
    """It has no axis."""
    return "it has an axis" if _values(node, 1) else None


@condition("gather along the first axis behind the batch")
def axis_is_batch_dimensions(node: Node) -> str | None:
    """The axis equals the number of batch dimensions."""
    axis, batch = int(node.options.get("axis", 0)), int(node.options.get("batch_dims", 0))
    return None if axis == batch else f"the axis is {axis}, the batch has {batch} dimensions"


@condition("write each place once, with constant indices")
def scatter_of_u85(node: Node) -> str | None:
    """Indices and the shape are constant, indices are unique and have one channel."""
    indices, shape = node.input(0), node.input(2)
    values = indices.values() if indices is not None else None
    if values is None or shape is None or not shape.constant:
        return "the indices or the shape are computed"
    if values.shape[-1:] != (1,):
        return f"{indices} has {values.shape[-1] if values.ndim else 0} channels, not 1"
    return None if len(np.unique(values)) == values.size else f"{indices} names a place twice"


GATES = {
    "coupled": ((1,), False),
    "peephole": ((9, 10, 11), True),
    "projection": ((16, 17), True),
    "gate_norm": ((20, 21, 22, 23), True),
}
"""The inputs of UNIDIRECTIONAL_SEQUENCE_LSTM by which a form is told, and whether being there means to have it."""


@condition("use a plain LSTM, or write it out in linear layers")
def lstm_without(node: Node, *forms: str) -> str | None:
    """None of these is there: coupled (input and forget gate), peephole, projection, gate_norm."""
    for form in forms:
        places, present = GATES[form]
        if any((node.input(i) is not None) == present for i in places):
            return f"it has {form.replace('_', ' ')}"
    return None


@condition("use a variable of bool or of an integer type")
def integer_variable(node: Node) -> str | None:
    """The data of a variable is bool or an integer type."""
    data = [t for t in node.tensors if t.dtype != "resource"]
    wrong = [t for t in data if t.dtype != "bool" and not t.dtype.startswith(("int", "uint"))]
    return f"{wrong[0]} is {wrong[0].dtype}" if wrong else None


@condition("inline the composite: its decomposition is judged operator by operator")
def composite_named(node: Node, *names: str) -> str | None:
    """The composite has one of these names."""
    name = node.options.get("name", "")
    return None if name in names else f"the composite is {name or 'without a name'}, not {' or '.join(names)}"
