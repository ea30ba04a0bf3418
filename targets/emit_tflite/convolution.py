"""Operators on signals, images and volumes: convolution, also transposed, and resizing.

ONNX keeps channels second, TFLite last: each reads and writes values in that layout. A signal [N, C, L] is an image of
height 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.layouts import channels_last
from m4c.targets.emit_tflite.linear import bias_type, biased
from m4c.targets.emit_tflite.lowering import Array, Lowering
from m4c.targets.emit_tflite.units import Unit, behind
from m4c.weights import stored

Op = tfl.BuiltinOperator
Sizes = tuple[int, ...]
"""(height, width) of an image, (depth, height, width) of a volume."""


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel moves over an image or a volume; ``before`` and ``after`` are the padding."""

    size: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    after: Sizes

    def padding(self, image: Sizes) -> int | None:
        """Return TFLite's name of the padding, or None if it has none and a PAD must come first."""
        if not any((*self.before, *self.after)):
            return int(tfl.Padding.VALID)
        for axis in range(len(self.size)):
            extent = (self.size[axis] - 1) * self.dilations[axis] + 1
            steps = -(-image[axis] // self.strides[axis])
            total = max((steps - 1) * self.strides[axis] + extent - image[axis], 0)
            if (self.before[axis], self.after[axis]) != (total // 2, total - total // 2):
                return None
        return int(tfl.Padding.SAME)

    def transposed_padding(self, image: Sizes, made: Sizes) -> int:
        """Return TFLite's name of the padding of a transposed convolution from ``image`` to ``made``.

        SAME is what a convolution from ``made`` to ``image`` would have; with VALID, padding is still to be cut away.
        """
        for axis in (0, 1):
            stride = self.strides[axis]
            total = max((image[axis] - 1) * stride + self.size[axis] - made[axis], 0)
            if (-(-made[axis] // stride), total // 2) != (image[axis], self.before[axis]):
                return int(tfl.Padding.VALID)
        return int(tfl.Padding.SAME)


def conv(at: Lowering, unit: Unit) -> None:
    """Conv is CONV_2D, DEPTHWISE_CONV_2D when every input channel is a group of its own, and CONV_3D of volumes."""
    x, w = _checked(at, unit, (3, 4, 5)), at.shape(unit.input(1))
    groups = int(unit.attribute("group", 1))
    volume, depthwise = len(x) == 5, groups > 1 and groups == x[1]
    if volume and groups > 1:
        raise at.refuse(
            f"CONV_3D has no groups, and this has {groups}", "split the channels and concatenate the results"
        )
    if volume and at.integer:
        raise at.refuse("CONV_3D has a kernel for float alone", "leave the convolution of a volume in float")
    source = as_image(at, unit.input(0))
    if depthwise and at.flat.tensors[source].dtype == ir.DataType.INT16:
        raise at.refuse("a depthwise convolution of int16 wants an int64 bias", "quantize its input to int8")
    weight = _weight(at, unit, depthwise)
    if not at.integer and at.affine(weight) is not None:
        weight = _float(at, weight)
    bias = biased(at, unit.optional(2), source, weight, w[0])
    window = window_of(at, unit, at.shape(unit.input(1))[2:])
    padding = window.padding(at.flat.tensors[source].shape[1:-1])
    if padding is None:
        source, padding = padded(at, source, window), int(tfl.Padding.VALID)
    output = unit.outputs[0]
    options = _options(window, padding, w[0] // x[1] if depthwise else None, bias_type(at, source))
    code = Op.CONV_3D if volume else Op.DEPTHWISE_CONV_2D if depthwise else Op.CONV_2D
    with at.result(output, layout=channels_last(len(x))) as target, from_image(at, target) as made:
        at.emit(code, [source, weight, bias], [made], options)


def conv_transpose(at: Lowering, unit: Unit) -> None:
    """ConvTranspose is TRANSPOSE_CONV; what padding takes from a full result, a SLICE cuts away where SAME does not."""
    x, y, output = _checked(at, unit, (3, 4)), at.shape(unit.outputs[0]), unit.outputs[0]
    window, given, made = _transposed_window(at, unit), image(x[2:]), image(y[2:])
    source = as_image(at, unit.input(0))
    weight = _transposed_weight(at, unit)
    if not at.integer and at.affine(weight) is not None:
        weight = _float(at, weight)
    bias = biased(at, unit.optional(2), source, weight, y[1])
    options = tfl.TransposeConvOptionsT()
    options.padding = window.transposed_padding(given, made)
    options.strideH, options.strideW = window.strides
    options.quantizedBiasType = bias_type(at, source)
    same = options.padding == tfl.Padding.SAME
    with at.result(output, layout=channels_last(len(x))) as target, from_image(at, target) as wanted:
        shape = at.flat.tensors[wanted].shape
        whole = shape if same else (shape[0], *_whole(at, window, given, made), shape[3])
        result = wanted if whole == shape else at.like("whole", whole, wanted)
        at.emit(Op.TRANSPOSE_CONV, [at.ints(whole), weight, source, bias], [result], options)
        if result != wanted:
            begin = at.ints((0, *window.before, 0))
            at.emit(Op.SLICE, [result, begin, at.ints(shape)], [wanted], tfl.SliceOptionsT())


def resize(at: Lowering, unit: Unit) -> None:
    """Resize of images to the nearest value by whole factors of height and width is RESIZE_NEAREST_NEIGHBOR."""
    x, y = _resized(at, unit)
    mode, places = unit.attribute("mode", "nearest"), unit.attribute(*PLACES)
    rounding = unit.attribute("nearest_mode", "round_prefer_floor")
    whole = all(b % a == 0 for a, b in zip(x[2:], y[2:], strict=True))
    if mode != "nearest" or (places, rounding) not in NEAREST or not whole:
        raise at.refuse(
            f"{mode} with {places}, {rounding} from {list(x)} to {list(y)}",
            "resize images linearly, or to the nearest value by whole factors of height and width",
        )
    _resize(at, unit, Op.RESIZE_NEAREST_NEIGHBOR, tfl.ResizeNearestNeighborOptionsT())


def bilinear(at: Lowering, unit: Unit) -> None:
    """A linear Resize of images is RESIZE_BILINEAR."""
    _, y = _resized(at, unit)
    places, options = unit.attribute(*PLACES), tfl.ResizeBilinearOptionsT()
    if places not in LINEAR or unit.attribute("antialias", 0) or unit.attribute("exclude_outside", 0):
        raise at.refuse(
            f"linear with {places}, antialias={unit.attribute('antialias', 0)}, "
            f"exclude_outside={unit.attribute('exclude_outside', 0)}",
            f"use one of {', '.join(LINEAR)}, without either",
        )
    if places == "pytorch_half_pixel" and 1 in y[2:]:
        raise at.refuse("pytorch_half_pixel to a size of 1", "use half_pixel")
    options.alignCorners = places == "align_corners"
    options.halfPixelCenters = places.endswith("half_pixel")
    _resize(at, unit, Op.RESIZE_BILINEAR, options)


PLACES = ("coordinate_transformation_mode", "half_pixel")
"""The attribute that says where a Resize finds a value, and its default."""

NEAREST = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
"""How the nearest value may be found: by whole factors, both find what TFLite does."""

LINEAR = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
"""Where a linear Resize may find values."""


def _resized(at: Lowering, unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes before and after, or refuse what is no image made larger or smaller."""
    x, y = at.shape(unit.input(0)), at.shape(unit.outputs[0])
    if len(x) != 4 or x[:2] != y[:2] or not _exact(at, unit, x, y):
        raise at.refuse(f"it makes {list(y)} of {list(x)}", "resize images [N, C, H, W] in height and width")
    return x, y


def _resize(at: Lowering, unit: Unit, code: int, options: Any) -> None:
    source, size = as_image(at, unit.input(0)), at.shape(unit.outputs[0])[2:]
    with at.result(unit.outputs[0], at.affine(source), channels_last(4)) as target:
        at.emit(code, [source, at.ints(size)], [target], options)


def _exact(at: Lowering, unit: Unit, x: Sequence[int], y: Sequence[int]) -> bool:
    """Return whether sizes and factors of a Resize agree: TFLite takes the factors that the sizes tell."""
    factors = unit.optional(2)
    if factors is None or 0 in at.shape(factors):
        return True
    held = at.values(factors, "the scale").tolist()
    return all(abs(size * factor - made) < 1e-3 for size, factor, made in zip(x, held, y, strict=True))


def image(size: Sequence[int]) -> Sizes:
    """Return the sizes of an image or a volume; a signal is an image of height 1."""
    return (1, size[0]) if len(size) == 1 else tuple(size)


def as_image(at: Lowering, value: ir.Value) -> int:
    """Return the tensor of ``value`` with its channels last: an image as it is, a signal [N, C, L] as one of height 1."""
    source = at.read(value, channels_last(len(at.shape(value))))
    shape = at.flat.tensors[source].shape
    return source if len(shape) > 3 else reshaped(at, source, (shape[0], 1, *shape[1:]), "image")


@contextmanager
def from_image(at: Lowering, target: int) -> Iterator[int]:
    """Yield the tensor to write an image into that becomes ``target``: itself, or what a RESHAPE makes a signal of."""
    shape = at.flat.tensors[target].shape
    if len(shape) > 3:
        yield target
        return
    made = at.like("image", (shape[0], 1, *shape[1:]), target)
    yield made
    options = tfl.ReshapeOptionsT()
    options.newShape = list(shape)
    at.emit(Op.RESHAPE, [made, at.ints(shape)], [target], options)


def reshaped(at: Lowering, source: int, shape: Sequence[int], name: str) -> int:
    """Return tensor ``source`` in another shape."""
    made = at.like(name, shape, source)
    options = tfl.ReshapeOptionsT()
    options.newShape = list(shape)
    at.emit(Op.RESHAPE, [source, at.ints(shape)], [made], options)
    return made


def _checked(at: Lowering, unit: Unit, ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of what a convolution reads, or refuse one whose dimensions or kernel are none of TFLite's."""
    x = at.shape(unit.input(0))
    if len(x) not in ranks:
        raise at.refuse(
            f"its input has {len(x)} dimensions", "reshape it to a signal [N, C, L] or an image [N, C, H, W]"
        )
    if not stored(behind(unit.input(1))):
        raise at.refuse("its kernel is computed", "fold the kernel to a constant first")
    return x


def _weight(at: Lowering, unit: Unit, depthwise: bool) -> int:
    """Return the kernel as [O, H, W, I], [1, H, W, O] for a depthwise convolution, [D, H, W, I, O] for one of volumes."""
    outer, inner, *size = at.shape(unit.input(1))
    if len(size) == 3:
        turned = (*size, inner, outer)
        return at.laid_out(unit.input(1), "dhwio", lambda held: held.transpose(2, 3, 4, 1, 0), turned, (0, 4))
    height, width = image(size)
    shape = (1, height, width, outer) if depthwise else (outer, height, width, inner)

    def view(held: Array) -> Array:
        kernel = held.reshape(outer, inner, height, width)
        return kernel.transpose(1, 2, 3, 0) if depthwise else kernel.transpose(0, 2, 3, 1)

    layout = "depthwise" if depthwise else "ohwi"
    return at.laid_out(unit.input(1), layout, view, shape, (0, 3 if depthwise else 0))


def _transposed_weight(at: Lowering, unit: Unit) -> int:
    """Return the kernel of a transposed convolution, [I, O, H, W], as [O, H, W, I]."""
    inner, outer, *size = at.shape(unit.input(1))
    height, width = image(size)

    def view(held: Array) -> Array:
        return held.reshape(inner, outer, height, width).transpose(1, 2, 3, 0)

    return at.laid_out(unit.input(1), "iohw", view, (outer, height, width, inner), (1, 0))


def _transposed_window(at: Lowering, unit: Unit) -> Window:
    """Return the window of a transposed convolution, or refuse what TRANSPOSE_CONV cannot say."""
    window = window_of(at, unit, at.shape(unit.input(1))[2:])
    groups = int(unit.attribute("group", 1))
    if groups > 1:
        raise at.refuse(
            f"TRANSPOSE_CONV has no groups, and this has {groups}",
            "split the channels, convolve each group by itself and concatenate the results",
        )
    if any(d > 1 and k > 1 for d, k in zip(window.dilations, window.size, strict=True)):
        raise at.refuse(
            f"TRANSPOSE_CONV has no dilation, and this has {list(window.dilations)}",
            "use a kernel with the zeros written out and a dilation of 1",
        )
    if "output_shape" in unit.node.attributes:
        raise at.refuse("output_shape is given", "write the padding out as pads (canonicalize does)")
    return window


def _whole(at: Lowering, window: Window, given: Sizes, made: Sizes) -> Sizes:
    """Return (height, width) of the result before its padding is cut away.

    LiteRT's optimized kernel computes the size of the input back from it: up to one stride less one may follow the last
    value, which is what ``output_padding`` may be.
    """
    sizes = []
    for axis in (0, 1):
        full = (given[axis] - 1) * window.strides[axis] + window.size[axis]
        needed = window.before[axis] + made[axis]
        if needed - full >= window.strides[axis]:
            raise at.refuse(
                f"output_padding reaches {needed - full} past the last value, with a stride of {window.strides[axis]}",
                "make each output_padding smaller than its stride",
            )
        sizes.append(max(full, needed))
    return tuple(sizes)


def _float(at: Lowering, weight: int) -> int:
    """Return a quantized kernel dequantized, for a convolution that computes in float."""
    held = at.flat.tensors[weight]
    made = at.scratch(f"{at.unit.outputs[0].name}.kernel", held.shape)
    at.emit(Op.DEQUANTIZE, [weight], [made])
    return made


def window_of(at: Lowering, unit: Unit, kernel: Sequence[int]) -> Window:
    """Return how a kernel of that size moves, as the attributes of a Conv or a pool say."""
    dims = len(kernel)
    pads = unit.attribute("pads", [0] * 2 * dims)
    if unit.attribute("auto_pad", "NOTSET") != "NOTSET":
        raise at.refuse(
            f"auto_pad={unit.attribute('auto_pad', '')}", "write the padding out as pads (canonicalize does)"
        )

    def filled(values: Sequence[int], fill: int) -> Sizes:
        return (fill, values[0]) if dims == 1 else tuple(values)

    return Window(
        image(kernel),
        filled(unit.attribute("strides", [1] * dims), 1),
        filled(unit.attribute("dilations", [1] * dims), 1),
        filled(pads[:dims], 0),
        filled(pads[dims:], 0),
    )


def padded(at: Lowering, source: int, window: Window, fill: int | None = None) -> int:
    """Return ``source`` [N, …, C] with zeros around it, or with what the constant tensor ``fill`` holds."""
    pads = np.zeros((len(window.size) + 2, 2), np.int32)
    pads[1:-1] = np.array([window.before, window.after]).T
    shape = np.add(at.flat.tensors[source].shape, pads.sum(1))
    made = at.like("padded", [int(d) for d in shape], source)
    if fill is None:
        at.emit(Op.PAD, [source, at.ints(pads)], [made], tfl.PadOptionsT())
    else:
        at.emit(Op.PADV2, [source, at.ints(pads), fill], [made], tfl.PadV2OptionsT())
    return made


def _options(window: Window, padding: int, multiplier: int | None, bias: int) -> Any:
    options: Any
    if len(window.size) == 3:
        options = tfl.Conv3DOptionsT()
        options.strideD, options.dilationDFactor = window.strides[0], window.dilations[0]
    elif multiplier is not None:
        options = tfl.DepthwiseConv2DOptionsT()
        options.depthMultiplier = multiplier
    else:
        options = tfl.Conv2DOptionsT()
        options.quantizedBiasType = bias
    options.padding = padding
    options.strideH, options.strideW = window.strides[-2:]
    options.dilationHFactor, options.dilationWFactor = window.dilations[-2:]
    return options
