"""Places QuantizeLinear and DequantizeLinear nodes into a graph: the only file that knows how a pair looks.

A computed value is rounded right after the node that makes it, and every reader takes the rounded one. A reader that needs
it with another scale or width takes it through a second pair (a QUANTIZE in TFLite). Stored operands become integer
initializers behind a DequantizeLinear; their numbers are recipes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from m4c.ahead import ahead
from m4c.quant import (
    PerChannel,
    Quantization,
    bias_scales,
    least_scales,
    quantize,
    quantize_bias,
    weight_codes,
    weight_scales,
)
from m4c.weights import (
    Array,
    array,
    constant,
    divisible,
    is_weight,
    lazy,
    part,
    register,
    stored_value,
    stretches,
    turned,
    untransposed,
)

PIECE = 4 << 20
"""Bytes of a weight that are rounded at once."""


@dataclass(frozen=True)
class Unit:
    """A linear layer or a convolution: ``node`` reads the weight, ``biased`` the bias at operand ``bias``, if any.

    ``axis`` is that of the output channels in the weight.
    """

    node: ir.Node
    biased: ir.Node
    bias: int | None
    axis: int


class _Channels:
    """The codes and scales of a weight with a scale for each index of ``axis``; its scales, once known, are kept.

    A matrix that is known to be one turned around is read as that, in parts.
    """

    def __init__(self, weight: ir.TensorProtocol, axis: int, least: Callable[[], Array | float]) -> None:
        """Take the lower bounds of the scales, one for all or [channels], which are asked for once."""
        rows = untransposed(weight) if axis == 1 else None
        self._matrix, self._turned = (weight, False) if rows is None else (rows, True)
        self._axis = PerChannel(0 if self._turned else axis)
        self.count = int(weight.shape.numpy()[axis])
        self._least, self.scales = least, cache(self._scales)

    def _scales(self) -> Array:
        """Return the scales, float32 [channels]."""
        least = self._least()
        if self._axis.axis:
            return weight_scales(array(self._matrix), self._axis, least)
        bounds = np.broadcast_to(least, (self.count,))

        def some(rows: slice) -> Array:
            return weight_scales(part(self._matrix, rows), self._axis, bounds[rows])

        return np.concatenate(list(ahead(some, stretches(self._matrix, PIECE))))

    def all_codes(self) -> Array:
        """Return the codes as they lie in the weight, int8."""
        made = weight_codes(array(self._matrix), self.scales(), self._axis)
        return made.T if self._turned else made

    def codes(self, name: str) -> ir.TensorProtocol:
        """Return the codes as a recipe."""

        def some(rows: slice) -> Array:
            return weight_codes(part(self._matrix, rows), self.scales()[rows], self._axis)

        def whole() -> Array:
            return weight_codes(array(self._matrix), self.scales(), self._axis)

        parts = some if divisible(self._matrix) and not self._axis.axis else None
        dims = self._matrix.shape.numpy()
        made = lazy(f"{name}.rows" if self._turned else name, ir.DataType.INT8, dims, whole, parts)
        return turned(name, made) if self._turned else made


class Placer:
    """Edits one graph; counts the ``pairs`` it placed."""

    def __init__(self, graph: ir.Graph) -> None:
        """Start with a float graph."""
        self.graph = graph
        self.pairs = 0
        self._source: dict[ir.Value, ir.Value] = {}
        self._made: dict[tuple[ir.Value, Quantization], ir.Value] = {}
        self._stored: dict[tuple[ir.Value, ir.Value], ir.Value] = {}

    def source(self, value: ir.Value) -> ir.Value:
        """Return the float value that ``value`` is the dequantized form of, or ``value`` itself."""
        return self._source.get(value, value)

    def activation(self, value: ir.Value, quantization: Quantization, label: str) -> None:
        """Round ``value`` for all its readers; a graph output keeps its name on the rounded value."""
        name, maker = str(value.name), value.producer()
        uses = value.uses()
        returned = [i for i, output in enumerate(self.graph.outputs) if output is value]
        if returned:
            value.name = f"{name}.float"
        pair, result = self._pair(value, name, quantization, label)
        if returned:
            result.name = name
        for use in uses:
            use.node.replace_input_with(use.idx, result)
        for index in returned:
            self.graph.outputs[index] = result
        if maker is None:
            self.graph.insert_before(self.graph[0], pair)
        else:
            self.graph.insert_after(maker, pair)
        self._made[value, quantization] = result

    def convert(self, node: ir.Node, index: int, quantization: Quantization, label: str) -> None:
        """Make operand ``index`` of ``node`` a value that is stored as ``quantization``, converting it if it is not."""
        value = node.inputs[index]
        assert value is not None
        source = self.source(value)
        result = self._made.get((source, quantization))
        if result is None:
            pair, result = self._pair(
                value, f"{source.name}.as.{label}.{quantization.bits}", quantization, label
            )
            maker = value.producer()
            assert maker is not None
            self.graph.insert_after(maker, pair)
            self._source[result] = source
            self._made[source, quantization] = result
        node.replace_input_with(index, result)

    def _pair(
        self, value: ir.Value, name: str, quantization: Quantization, label: str
    ) -> tuple[list[ir.Node], ir.Value]:
        parameters = self._parameters(quantization, label)
        maker = self.source(value).producer()
        props = dict(maker.metadata_props) if maker is not None else {}
        quantized = ir.node(
            "QuantizeLinear", [value, *parameters], name=f"{name}.quantize", metadata_props=props
        )
        codes = _typed(quantized.outputs[0], f"{name}.codes", quantization.dtype, value.shape)
        back = ir.node(
            "DequantizeLinear", [codes, *parameters], name=f"{name}.dequantize", metadata_props=props
        )
        result = _typed(back.outputs[0], f"{name}.dequantized", ir.DataType.FLOAT, value.shape)
        self._source[result] = self.source(value)
        self.pairs += 1
        return [quantized, back], result

    def _parameters(self, quantization: Quantization, label: str) -> list[ir.Value]:
        suffix = "" if quantization.bits == 8 else f".{quantization.bits}"
        zero = np.asarray(quantization.zero_point, quantization.dtype.numpy())
        return [
            constant(self.graph, f"{label}.scale{suffix}", np.asarray(quantization.scale, dtype=np.float32)),
            constant(self.graph, f"{label}.zero_point{suffix}", zero),
        ]

    def operand(self, node: ir.Node, index: int, quantization: Quantization, label: str) -> None:
        """Store operand ``index`` (a constant, table or token) with one scale."""
        value, read = self._reader(node, index)
        name = f"{value.name}.{label}.int{quantization.bits}" if label != value.name else None
        codes = self._derived(
            value,
            name or f"{value.name}.int{quantization.bits}",
            quantization.dtype,
            lambda: quantize(read(), quantization),
        )
        self._dequantized(node, index, [codes, *self._parameters(quantization, label)], {})

    def linear(self, unit: Unit, input_scale: float) -> None:
        """Store the weight of ``unit`` with a scale for each output channel, and its bias at the accumulator's scale.

        ``input_scale`` is the scale of the values that the weight is multiplied with.
        """
        matrix, _ = self._reader(unit.node, 1)
        bias, read_bias = self._reader(unit.biased, unit.bias) if unit.bias is not None else (None, None)
        read_bias = cache(read_bias) if read_bias is not None else None

        def least() -> Array | float:
            return 0.0 if read_bias is None else least_scales(read_bias(), input_scale)

        name = _name(matrix, unit)
        assert matrix.const_value is not None
        channels = _Channels(matrix.const_value, unit.axis, least)
        stored_codes = self._derived(
            matrix, f"{name}.int8", ir.DataType.INT8, channels.all_codes, make_lazily=channels.codes
        )
        stored_scales = self._derived(
            matrix, f"{name}.scales", ir.DataType.FLOAT, channels.scales, [channels.count]
        )
        self._dequantized(unit.node, 1, [stored_codes, stored_scales], {"axis": unit.axis})
        if bias is None or read_bias is None or unit.bias is None:
            return

        def products() -> Array:
            return bias_scales(input_scale, channels.scales())

        name = _name(bias, unit)
        bias_codes = self._derived(
            bias,
            f"{name}.int32",
            ir.DataType.INT32,
            lambda: quantize_bias(read_bias(), products()),
            lazily=matrix,
        )
        steps = self._derived(bias, f"{name}.scales", ir.DataType.FLOAT, products, lazily=matrix)
        self._dequantized(unit.biased, unit.bias, [bias_codes, steps], {"axis": 0})

    def _reader(self, node: ir.Node, index: int) -> tuple[ir.Value, Callable[[], Array]]:
        value = node.inputs[index]
        assert value is not None
        tensor = value.const_value
        assert tensor is not None
        return value, lambda: array(tensor)

    def _derived(
        self,
        source: ir.Value,
        name: str,
        dtype: ir.DataType,
        make: Callable[[], Array],
        shape: Sequence[int] | None = None,
        lazily: ir.Value | None = None,
        make_lazily: Callable[[str], ir.TensorProtocol] | None = None,
    ) -> ir.Value:
        """Register what ``make`` gives, shaped like ``source``: a recipe if ``source`` or ``lazily`` is a weight.

        ``make_lazily`` makes a recipe that knows more than how to read the whole.
        """
        known = self.graph.initializers.get(name)
        if known is not None:
            return known
        assert source.const_value is not None
        dims = shape if shape is not None else source.const_value.shape.numpy()
        tensor: ir.TensorProtocol
        if not is_weight(source) and (lazily is None or not is_weight(lazily)):
            tensor = ir.tensor(make(), name=name)
        elif make_lazily is not None:
            tensor = make_lazily(name)
        else:
            tensor = lazy(name, dtype, dims, make)
        return register(self.graph, stored_value(tensor))

    def _dequantized(
        self, node: ir.Node, index: int, inputs: list[ir.Value], attributes: dict[str, int]
    ) -> None:
        """Put a DequantizeLinear of ``inputs`` before ``node``, or take the one that is there."""
        value, key = node.inputs[index], (inputs[0], inputs[1])
        assert value is not None
        if key not in self._stored:
            name = str(inputs[0].name)
            made = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}.dequantize")
            self.graph.insert_before(node, made)
            result = _typed(made.outputs[0], f"{name}.dequantized", ir.DataType.FLOAT, value.shape)
            self._stored[key] = result
            self._source[result] = value
        node.replace_input_with(index, self._stored[key])


def _name(stored: ir.Value, unit: Unit) -> str:
    """Return what to call the forms of ``stored`` in ``unit``: another unit that shares it may need other scales."""
    alone = len(stored.uses()) == 1
    return str(stored.name) if alone else f"{stored.name}.for.{unit.node.outputs[0].name}"


def _typed(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), shape
    return value
