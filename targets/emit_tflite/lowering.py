"""What emit functions work with: tensors for IR values, constants, scratch tensors, operators.

The one idea: a function asks :meth:`Lowering.read` for the tensor of an input and writes within :meth:`Lowering.result`;
whether the tensors are float or integer, and what has to be converted around the operator, is decided here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.blockwise import BlockwiseWeight
from m4c.errors import UnsupportedError
from m4c.model import module_path
from m4c.targets.emit_tflite.flat import Affine, ByChannel, Content, Flat, Grouped, Tensor
from m4c.targets.emit_tflite.quantization import Plan
from m4c.targets.emit_tflite.units import Unit, behind
from m4c.targets.emit_tflite.versions import version
from m4c.weights import Transposed, array, is_weight, small

Array = np.ndarray
Op = tfl.BuiltinOperator
TURNED = "transposed"
"""The layout of a matrix whose rows are the columns of the model's."""

INT32 = np.iinfo(np.int32)


@dataclass
class Lowering:
    """One model on its way into ``flat``; ``unit`` is the piece that is being emitted."""

    flat: Flat
    plan: Plan
    unit: Unit
    _values: dict[ir.Value, int] = field(default_factory=dict)
    _floats: dict[ir.Value, int] = field(default_factory=dict)
    _layouts: dict[tuple[str, str], int] = field(default_factory=dict)
    _constants: dict[tuple[str, tuple[int, ...], bytes, Affine | None], int] = field(default_factory=dict)

    @property
    def integer(self) -> bool:
        """Return whether the unit computes in integers."""
        return self.unit in self.plan.integer

    def refuse(self, reason: str, fix: str) -> UnsupportedError:
        """Return the error that says why the unit cannot be emitted."""
        return UnsupportedError(
            f"the TFLite emitter cannot emit {self.unit.operator}: {reason}", where=self.unit.where, fix=fix
        )

    # values of the IR

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape of ``value``, which must be static."""
        return _static_shape(value)

    def values(self, value: ir.Value | None, what: str) -> Array:
        """Return the values of a constant input that is an attribute of the TFLite operator."""
        held = small(value)
        if held is None:
            raise self.refuse(f"{what} is computed", "fold it to a constant first (shapes must be static)")
        return held

    def port(self, value: ir.Value) -> int:
        """Return the tensor that stands for ``value`` at the border of the graph: the int8 one if there is one."""
        return self.place(self.plan.carrier.get(value, value))

    def read(self, value: ir.Value) -> int:
        """Return the tensor that the unit reads for ``value``; a float unit gets a carried value dequantized."""
        carrier = self.plan.carrier.get(value)
        if carrier is None:
            return self.place(value)
        if not self.integer:
            return self._dequantized(value, carrier)
        index = self.place(carrier)
        scales = self.affine(index)
        if scales is not None and not scales.per_tensor:
            raise self.refuse(
                f"{carrier.name} has {len(scales.scale)} scales",
                "quantize it per tensor: only the weights of Linear and Conv may have a scale for each channel",
            )
        return index

    def place(self, value: ir.Value) -> int:
        """Return the tensor of exactly this value, made at its first use."""
        if value not in self._values:
            name = self.plan.names.get(value, value.name or "")
            content = None
            if value.const_value is not None:
                content = Content(_checked(value))
            dtype = value.dtype
            if dtype is None:
                raise _untyped(value)
            made = Tensor(name, dtype, _static_shape(value), self.plan.affine.get(value), content)
            self._values[value] = self.flat.tensor(made)
        return self._values[value]

    def wanted(self, value: ir.Value) -> Affine | None:
        """Return the quantization that the model gives to a result of the unit, None if it is float."""
        return self.plan.affine.get(self.plan.carrier[value]) if value in self.plan.carrier else None

    def affine(self, index: int) -> Affine | None:
        """Return the quantization of a tensor."""
        return self.flat.tensors[index].affine

    @contextmanager
    def result(self, value: ir.Value, affine: Affine | None = None) -> Iterator[int]:
        """Yield the tensor to write ``value`` into.

        ``affine`` is what the kernel writes if it has no choice (its input's scale, or a fixed one); where the model
        wants another scale, a QUANTIZE after the operator gives it.
        """
        target = self.place(self.plan.carrier[value]) if value in self.plan.carrier else self.place(value)
        wanted = self.affine(target)
        if affine is None or wanted is None or same(affine, wanted):
            yield target
            return
        between = self.scratch(f"{value.name}.unscaled", _static_shape(value), affine)
        yield between
        self.emit(Op.QUANTIZE, [between], [target])

    # tensors that the IR does not have

    def scratch(self, name: str, shape: Sequence[int], affine: Affine | None = None) -> int:
        """Add a computed tensor: of the type that ``affine`` quantizes to, float32 otherwise."""
        dtype = ir.DataType.FLOAT if affine is None else affine.dtype
        return self.flat.tensor(Tensor(name, dtype, tuple(shape), affine))

    def like(self, suffix: str, shape: Sequence[int], index: int) -> int:
        """Add a computed tensor of the type and quantization of tensor ``index``, named after the unit's output."""
        model = self.flat.tensors[index]
        name = f"{self.unit.outputs[0].name}.{suffix}"
        return self.flat.tensor(Tensor(name, model.dtype, tuple(shape), model.affine))

    def constant(self, values: Array, affine: Affine | None = None) -> int:
        """Return a small constant tensor; equal ones are one."""
        values = np.asarray(values)
        key = (str(values.dtype), values.shape, values.tobytes(), affine)
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            content = Content(ir.tensor(values))
            dtype = ir.DataType.from_numpy(values.dtype)
            self._constants[key] = self.flat.tensor(Tensor(name, dtype, values.shape, affine, content))
        return self._constants[key]

    def ints(self, values: Sequence[int] | Array) -> int:
        """Return a constant int32 tensor such as a shape or a permutation."""
        return self.constant(np.asarray(values, np.int32))

    def laid_out(
        self,
        value: ir.Value,
        layout: str,
        view: Callable[[Array], Array] | None,
        shape: Sequence[int],
        axes: tuple[int, int] = (0, 0),
        affine: Affine | None = None,
    ) -> int:
        """Return a stored input in another layout, integer if the model stores it so.

        ``view`` is applied when the file is written and should be a numpy view; a matrix that is another one turned around is
        read as that, in parts. ``axes`` is the axis that the scales of a
        weight belong to, before and after; ``affine``, if given, is used instead of the model's own.
        """
        carrier = behind(value)
        assert carrier is not None
        key = (carrier.name or "", layout)
        if key not in self._layouts:
            scales = affine or self._weight_scales(carrier, axes)
            if carrier.dtype is None:
                raise _untyped(carrier)
            source = _checked(carrier)
            origin = getattr(source, "origin", None)
            if layout == TURNED and isinstance(origin, Transposed):
                source, view = origin.matrix, None
            made = Tensor(
                f"{carrier.name}.{layout}", carrier.dtype, tuple(shape), scales, Content(source, view)
            )
            self._layouts[key] = self.flat.tensor(made)
        return self._layouts[key]

    def rounded(self, weight: BlockwiseWeight) -> int:
        """Return the tensor of a matrix [N, K] on a grid, to multiply float values by; its scales follow it in the file."""
        key = (weight.name, str(weight.grid))
        if key not in self._layouts:
            codes, scales = weight.linear()
            if weight.grid.bits == 8:
                held: Grouped | ByChannel = ByChannel(scales)
            else:  # tensors are written in the order of their indices, and the scales are made with the codes
                index, shape = len(self.flat.tensors) + 1, scales.shape.numpy()
                held = Grouped(index, weight.grid.size(weight.shape[1]))
            dtype = ir.DataType.INT8 if weight.grid.bits == 8 else ir.DataType.INT4
            made = Tensor(str(codes.name), dtype, weight.shape, None, Content(codes), held)
            self._layouts[key] = self.flat.tensor(made)
            if isinstance(held, Grouped):
                self.flat.tensor(Tensor(str(scales.name), scales.dtype, shape, None, Content(scales)))
        return self._layouts[key]

    def emit(
        self, code: int, inputs: Sequence[int | None], outputs: Sequence[int], options: Any = None
    ) -> None:
        """Append an operator to the file."""
        indices = [-1 if index is None else index for index in inputs]
        read, made = ([self.flat.tensors[i] for i in part if i >= 0] for part in (indices, outputs))
        needed = version(code, read, made)
        self.flat.operator(code, indices, outputs, options, needed)

    def _weight_scales(self, weight: ir.Value, axes: tuple[int, int]) -> Affine | None:
        """Return the quantization of a weight with its axis moved, or refuse one that the kernels do not take."""
        scales = self.plan.affine.get(weight)
        if scales is None:
            return None
        if any(scales.zero_point):
            raise self.refuse(f"{weight.name} has zero points other than 0", "quantize weights symmetrically")
        if scales.per_tensor:
            return scales
        if scales.axis != axes[0]:
            raise self.refuse(
                f"the scales of {weight.name} belong to axis {scales.axis}",
                f"quantize it per output channel, axis {axes[0]}",
            )
        return replace(scales, axis=axes[1])

    def _dequantized(self, value: ir.Value, carrier: ir.Value) -> int:
        if value not in self._floats:
            name = value.name or ""
            if self.plan.names.get(carrier) == name:
                name += ".float"  # the carrier has the name: it is the graph's output
            if carrier.dtype == ir.DataType.INT32:
                raise self.refuse(
                    f"{value.name} is an int32 bias of a float computation",
                    "quantize the input and the output of the operator too, or leave its bias float",
                )
            source = self.place(carrier)
            self._floats[value] = self.scratch(name, _static_shape(carrier))
            self.emit(Op.DEQUANTIZE, [source], [self._floats[value]])
        return self._floats[value]


def same(one: Affine, other: Affine) -> bool:
    """Return whether two quantizations are equal once their scales are float32."""
    scales = np.array(one.scale, np.float32), np.array(other.scale, np.float32)
    return (one.dtype, one.zero_point) == (other.dtype, other.zero_point) and np.array_equal(*scales)


def _static_shape(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of ``value``; a TFLite file has no dimension that is unknown."""
    if value.shape is None or not value.shape.is_static():
        raise UnsupportedError(
            f"{value.name} has the shape {value.shape}, and the TFLite emitter needs every dimension as a number",
            where=_maker(value),
            fix="capture the model with static shapes, and infer shapes after the last pass",
        )
    return tuple(value.shape.numpy())


def _untyped(value: ir.Value) -> UnsupportedError:
    """Return the error for a value without a dtype."""
    return UnsupportedError(
        f"{value.name} has no dtype", where=_maker(value), fix="infer types after the last pass"
    )


def _maker(value: ir.Value) -> str:
    producer = value.producer()
    return str(value.name) if producer is None else f"{producer.op_type} node of {module_path(producer)}"


def _checked(value: ir.Value) -> ir.TensorProtocol:
    """Return the stored tensor of ``value``; 64-bit constants must fit the 32 bits they get in the file."""
    tensor = value.const_value
    assert tensor is not None
    if tensor.dtype == ir.DataType.INT64 and not is_weight(value):
        held = array(tensor)
        if held.size and (held.min() < INT32.min or held.max() > INT32.max):
            raise UnsupportedError(
                f"{value.name} holds {held.min()}…{held.max()}, which does not fit 32 bits",
                where=str(value.name),
                fix="TFLite indices are int32: use smaller numbers",
            )
    return tensor
