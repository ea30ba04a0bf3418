"""Quantization schemes and their integer arithmetic: ``x = (q − zero_point) · scale``, rounded half to even.

Activations are int8, asymmetric, one scale a tensor (or int16, symmetric, where eight bits are too few); linear and
convolution weights are int8, symmetric, narrow range (−127…127), one scale an output channel; a bias is int32 at the
product of the two scales, so that it adds to the accumulator. These are the rules of LiteRT's 8-bit quantization
specification (ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec), and ONNX can say them too.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from m4c.errors import UsageError
from m4c.pipeline import Property

Array = np.ndarray

NARROW, WIDE = 8, 16
"""The widths of activations in bits."""

HIGHEST = 127
"""The largest code of a weight; the smallest is its negative, which keeps zero in the middle."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Smaller scales would be subnormal numbers, which kernels flush to zero."""

LARGEST_BIAS = 2.0**30
"""Codes of a bias stay below this: half of int32, so that the products have room in the accumulator."""

RANGE = "m4c.range"
"""Key in ``Value.metadata_props`` of a calibrated range: the two numbers, separated by a space."""

BOUNDS = "m4c.bounds"
"""Key of a range that holds by construction, written by the pass that made the value."""

INSTEAD = "m4c.instead"
"""Key of a value that may take the place of another: the name of the other."""

EXTREMES = "m4c.extremes"
"""Key of a value whose few large entries matter more than the steps of all others: its range holds all that samples show."""

WHOLE = "m4c.whole"
"""Key of the smallest and the largest of the whole numbers that a float input holds, separated by a space."""


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale for each index of ``axis``."""

    axis: int


Granularity = PerTensor | PerChannel


@dataclass(frozen=True, slots=True)
class Quantization:
    """How one tensor of activations is stored: ``scale`` is a float32 value, ``bits`` 8 or 16."""

    scale: float
    zero_point: int
    bits: int = NARROW

    @property
    def dtype(self) -> ir.DataType:
        """The integer type of the codes."""
        return ir.DataType.INT8 if self.bits == NARROW else ir.DataType.INT16

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number that can be represented."""
        low, high = self.codes
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale


def from_range(low: float, high: float, bits: int = NARROW) -> Quantization:
    """Return the quantization of the range, widened to hold 0, which is then exact.

    Eight bits are asymmetric, sixteen symmetric (no kernel takes another zero point). The empty range gets the scale 1.
    Raises ``ValueError`` for a range that is not finite or upside down.
    """
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise ValueError(f"not a range: {low} … {high}")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if low == high:
        return Quantization(1.0, 0, bits)
    if bits == WIDE:
        return Quantization(_scale(max(-low, high) / 32767), 0, bits)
    scale = _scale((high - low) / 255)
    return Quantization(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def _scale(exact: float) -> float:
    return float(np.float32(max(exact, SMALLEST_SCALE)))


def quantize(values: Array, quantization: Quantization) -> Array:
    """Return ``values`` (float, any shape) as codes; what lies outside the range, masks of −∞ too, saturates."""
    steps = np.rint(values / np.float32(quantization.scale)) + quantization.zero_point
    codes: Array = np.clip(steps, *quantization.codes).astype(quantization.dtype.numpy())
    return codes


def dequantize(codes: Array, quantization: Quantization) -> Array:
    """Return ``codes`` as float32."""
    values: Array = (codes.astype(np.float32) - quantization.zero_point) * np.float32(quantization.scale)
    return values


def weight_scales(weight: Array, granularity: Granularity, least: Array | float = 0.0) -> Array:
    """Return the symmetric scales of ``weight``: float32, 0-D for one a tensor, else [channels]; all positive.

    ``least`` is a lower bound, a channel or for all (:func:`least_scales`). A channel of zeros without a bound gets 1.
    """
    match granularity:
        case PerTensor():
            largest = np.abs(weight).max(initial=0.0)
        case PerChannel(axis):
            others = tuple(d for d in range(weight.ndim) if d != axis % weight.ndim)
            largest = np.abs(weight).max(axis=others, initial=0.0)
    scales = np.maximum(np.asarray(largest, dtype=np.float64) / HIGHEST, least)
    chosen: Array = np.where(scales > 0, np.maximum(scales, SMALLEST_SCALE), 1.0).astype(np.float32)
    return chosen


def least_scales(bias: Array, input_scale: float) -> Array:
    """Return the smallest weight scales [channels] at which ``bias`` fits into int32.

    They matter for channels whose weights are nearly zero beside their bias, which trained models have.
    """
    bound: Array = np.abs(bias.astype(np.float64)) / (input_scale * LARGEST_BIAS)
    return bound


def weight_codes(weight: Array, scales: Array, granularity: Granularity) -> Array:
    """Return ``weight`` as narrow-range int8 (−127…127) at ``scales``: 0-D, or [channels]."""
    if isinstance(granularity, PerChannel):
        shape = [1] * weight.ndim
        shape[granularity.axis] = -1
        scales = scales.reshape(shape)
    steps = weight / scales
    np.rint(steps, out=steps)
    codes: Array = np.clip(steps, -HIGHEST, HIGHEST, out=steps).astype(np.int8)
    return codes


def bias_scales(input_scale: float, scales: Array) -> Array:
    """Return the scales of a bias: that of the accumulator, input scale times weight scale (float32, [channels])."""
    return np.asarray(np.float32(input_scale) * scales, dtype=np.float32)


def quantize_bias(bias: Array, scales: Array) -> Array:
    """Return ``bias`` [channels] as int32 at ``scales`` [channels].

    Raises ``ValueError`` if it does not fit: weight scales below :func:`least_scales`.
    """
    steps = np.rint(bias.astype(np.float64) / scales)
    if steps.size and np.abs(steps).max() > np.iinfo(np.int32).max:
        raise ValueError(f"a bias of {np.abs(bias).max():g} does not fit into int32 at these scales")
    codes: Array = steps.astype(np.int32)
    return codes


def set_range(value: ir.Value, low: float, high: float) -> None:
    """Write the range of numbers that ``value`` takes into its metadata, which copies of the model keep."""
    value.metadata_props[RANGE] = f"{float(low)!r} {float(high)!r}"


def set_bounds(value: ir.Value, low: float, high: float) -> None:
    """Write the range that ``value`` has by construction: calibration takes it, whatever the samples show."""
    value.metadata_props[BOUNDS] = f"{float(low)!r} {float(high)!r}"


def keep_extremes(value: ir.Value) -> None:
    """Write that calibration must not cut the range of ``value``, whatever the observer: sums of it live by its largest."""
    value.metadata_props[EXTREMES] = "yes"


def keeps_extremes(value: ir.Value) -> bool:
    """Return whether :func:`keep_extremes` was called."""
    return EXTREMES in value.metadata_props


def get_bounds(value: ir.Value) -> tuple[float, float] | None:
    """Return what :func:`set_bounds` wrote, or None."""
    return _numbers(value, BOUNDS)


def set_whole(value: ir.Value, low: int, high: int) -> None:
    """Write that ``value`` holds whole numbers only, from ``low`` to ``high``."""
    value.metadata_props[WHOLE] = f"{low} {high}"


def get_whole(value: ir.Value) -> tuple[int, int] | None:
    """Return what :func:`set_whole` wrote, or None."""
    known = _numbers(value, WHOLE)
    return None if known is None else (int(known[0]), int(known[1]))


def get_range(value: ir.Value) -> tuple[float, float] | None:
    """Return the calibrated range of ``value``, or None if it has none.

    Raises:
        UsageError: if the metadata is there and is not a range.
    """
    return _numbers(value, RANGE)


def _numbers(value: ir.Value, key: str) -> tuple[float, float] | None:
    """Return the two numbers under ``key`` in the metadata of ``value``, or None if there are none."""
    text = value.metadata_props.get(key)
    if text is None:
        return None
    try:
        low, high = map(float, text.split())
    except ValueError:
        raise UsageError(
            f"{text!r} is not a calibrated range", where=str(value.name), fix="calibrate the model again"
        ) from None
    return low, high


def activations(graph: ir.Graph) -> list[ir.Value]:
    """Return the float32 inputs and computed values of ``graph``, in the order in which they come to be.

    Those that are only counted (:func:`counted`) are left out.
    """
    values = [v for v in graph.inputs if v.const_value is None]
    values += [output for node in graph for output in node.outputs]
    left_out = {part for v in values for part in _counting(v)}
    return [v for v in values if v.dtype == ir.DataType.FLOAT and v not in left_out]


def counted(value: ir.Value | None) -> ir.Value | None:
    """Return the integer that the float ``value`` is rounded to, if nothing else reads it: ``Cast(Round(value))``.

    It needs no scale: where activations are integers, the integer stands for it.
    """
    parts = _counting(value) if value is not None else ()
    return next((use.node.outputs[0] for part in parts[1:] for use in part.uses()), None)


def _counting(value: ir.Value) -> tuple[ir.Value, ...]:
    """Return a counted value and its rounded form, or nothing."""
    whole = _read_by(value, "Round") if value.dtype == ir.DataType.FLOAT else None
    cast = _read_by(whole, "Cast") if whole is not None else None
    integers = (ir.DataType.INT32, ir.DataType.INT64)
    return (value, whole) if whole is not None and cast is not None and cast.dtype in integers else ()


def _read_by(value: ir.Value, op_type: str) -> ir.Value | None:
    """Return what the only reader of ``value`` makes of it, if it is an ``op_type``."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != op_type:
        return None
    return uses[0].node.outputs[0]


def _uncalibrated(model: ir.Model) -> list[str]:
    """List the values whose type nobody knows, and the activations without a range."""
    untyped = [o.name for node in model.graph for o in node.outputs if o.name and o.dtype is None]
    missing = [v.name for v in activations(model.graph) if v.name and get_range(v) is None]
    return [f"{name} has no type" for name in untyped] + [f"{name} has no range" for name in missing]


CALIBRATED = Property("calibrated", _uncalibrated)
"""Every float activation carries the range that calibration saw."""
