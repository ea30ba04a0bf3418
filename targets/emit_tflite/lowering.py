"""What emit functions work with: tensors for IR values, constants, scratch tensors, operators.

The one idea: a function asks :meth:`Lowering.read` for the tensor of an input and writes within :meth:`Lowering.result`;
whether the tensors are float or integer, what has to be converted around the operator, and in which layout the values lie
(:mod:`m4c.layout`), is decided here. A transposition is an operator of the file only where a value is read in another layout
than it was made in.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.blockwise import BlockwiseWeight
from m4c.errors import UnsupportedError
from m4c.layout import Layout, extended, laid_out, named, plain, runs
from m4c.model import module_path
from m4c.targets.emit_tflite.flat import Affine, ByChannel, Content, Flat, Grouped, Tensor
from m4c.targets.emit_tflite.quantization import Plan
from m4c.targets.emit_tflite.units import Unit, behind
from m4c.targets.emit_tflite.versions import version
from m4c.weights import Transposed, array, is_weight, small, stored

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
    towards: frozenset[ir.Value] = frozenset()
    """What goes into operators that want channels last, through others that take any layout."""
    layout: Layout | None = None
    """The layout of all that the unit reads and writes, where the operator takes any; None is the model's own."""
    _values: dict[ir.Value, dict[Layout, int]] = field(default_factory=dict)
    """By layout: the tensors of each value; it was made in the first."""
    _floats: dict[tuple[ir.Value, Layout], int] = field(default_factory=dict)
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

    def begin(self, unit: Unit, follows: bool) -> None:
        """Go on to ``unit``, whose operator takes any layout if it ``follows`` what it reads: the one that moves least."""
        self.unit, self.layout = unit, None
        computed = [v for v in unit.inputs if v is not None and not stored(behind(v))]
        if not follows or not computed:
            return
        rank = max(len(self.shape(v)) for v in unit.inputs if v is not None)
        known = [v for v in unit.outputs if v.shape is not None]
        whole = max((*known, *computed), key=lambda v: (len(self.shape(v)), self._size(v)))
        made = {plain(rank): None}
        for value in sorted(computed, key=self._size):
            layout = extended(self.home(value), rank)
            if _alike(self.shape(whole), layout) or not _alike(self.shape(value), layout):
                made[layout] = None
        self.layout = min(reversed(made), key=partial(self._moved_size, computed))

    def home(self, value: ir.Value) -> Layout:
        """Return the layout that ``value`` was made in."""
        held = self._values.get(self.plan.carrier.get(value, value))
        return next(iter(held)) if held else plain(len(self.shape(value)))

    def axis(self, axis: int) -> int:
        """Return the place of an axis of the model in the layout of the unit; a negative one counts from the last."""
        if self.layout is None:
            return axis % len(self.shape(self.unit.input(0)))
        return self.layout.index(axis % len(self.layout))

    def extent(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape of ``value`` in the layout of the unit."""
        return laid_out(self.shape(value), self._fitting(value))

    def read(self, value: ir.Value, layout: Layout | None = None) -> int:
        """Return the tensor that the unit reads for ``value``; a float unit gets a carried value dequantized.

        It lies in ``layout``, else in that of the unit.
        """
        carrier, layout = self.plan.carrier.get(value), layout or self._fitting(value)
        if carrier is None:
            return self.place(value, layout)
        if not self.integer:
            return self._dequantized(value, carrier, layout)
        index = self.place(carrier, layout)
        scales = self.affine(index)
        if scales is not None and not scales.per_tensor:
            raise self.refuse(
                f"{carrier.name} has {len(scales.scale)} scales",
                "quantize it per tensor: only the weights of Linear and Conv may have a scale for each channel",
            )
        return index

    def place(self, value: ir.Value, layout: Layout | None = None) -> int:
        """Return the tensor of exactly this value in ``layout``, else the model's own; made at its first use."""
        layout = layout or plain(len(self.shape(value)))
        held = self._values.setdefault(value, {})
        if value.const_value is None and not held:
            self._make(value, plain(len(self.shape(value))))
        if layout not in held:
            if value.const_value is not None:
                self._make(value, layout)
            else:
                held[layout] = self._moved(value, layout)
        return held[layout]

    def stand_for(self, value: ir.Value, source: int, layout: Layout) -> None:
        """Let tensor ``source`` be the result ``value`` in ``layout``, rescaled where the model wants another scale."""
        target, affine = self.plan.carrier.get(value, value), self.affine(source)
        wanted = self.plan.affine.get(target)
        if affine is None or wanted is None or same(affine, wanted):
            self._values[target] = {layout: source}
        else:
            self.emit(Op.QUANTIZE, [source], [self._make(target, layout)])

    def wanted(self, value: ir.Value) -> Affine | None:
        """Return the quantization that the model gives to a result of the unit, None if it is float."""
        return self.plan.affine.get(self.plan.carrier[value]) if value in self.plan.carrier else None

    def affine(self, index: int) -> Affine | None:
        """Return the quantization of a tensor."""
        return self.flat.tensors[index].affine

    @contextmanager
    def result(
        self, value: ir.Value, affine: Affine | None = None, layout: Layout | None = None
    ) -> Iterator[int]:
        """Yield the tensor to write ``value`` into: in ``layout``, else in that of the unit.

        ``affine`` is what the kernel writes if it has no choice (its input's scale, or a fixed one); where the model
        wants another scale, a QUANTIZE after the operator gives it.
        """
        target = self._make(self.plan.carrier.get(value, value), layout or self._fitting(value))
        wanted = self.affine(target)
        if affine is None or wanted is None or same(affine, wanted):
            yield target
            return
        between = self.scratch(f"{value.name}.unscaled", self.flat.tensors[target].shape, affine)
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

    def _fitting(self, value: ir.Value) -> Layout:
        """Return the layout of ``value`` in the unit: its own axes only, if it is one number or lies as the model has it."""
        rank = len(self.shape(value))
        if self.layout in (None, plain(len(self.layout or ()))) or not rank:
            return plain(rank)
        assert self.layout is not None
        return plain(rank) if stored(behind(value)) and self._size(value) == 1 else self.layout

    def _size(self, value: ir.Value) -> int:
        return math.prod(self.shape(value))

    def _moved_size(self, values: Sequence[ir.Value], layout: Layout) -> int:
        """Return how many numbers are moved to read ``values`` in ``layout``."""
        return sum(self._size(v) for v in values if not self._lies(v, layout))

    def _lies(self, value: ir.Value, layout: Layout) -> bool:
        """Return whether ``value`` can be read in ``layout`` without moving numbers."""
        shape = self.shape(value)
        held = self._values.get(self.plan.carrier.get(value, value)) or {plain(len(shape)): 0}
        return any(runs(shape, known) == runs(shape, layout) for known in held)

    def _make(self, value: ir.Value, layout: Layout) -> int:
        """Add the tensor of ``value`` in ``layout``, stored if the value is."""
        shape, content = self.shape(value), None
        name = named(self.plan.names.get(value, value.name or ""), len(shape), layout)
        if value.const_value is not None:
            content = Content(_checked(value), _view(shape, layout))
        if value.dtype is None:
            raise _untyped(value)
        made = Tensor(name, value.dtype, laid_out(shape, layout), self.plan.affine.get(value), content)
        index = self.flat.tensor(made)
        self._values.setdefault(value, {})[layout] = index
        return index

    def _moved(self, value: ir.Value, layout: Layout) -> int:
        """Return a tensor of the computed ``value`` in ``layout``, moved from one that it has."""
        shape, held = self.shape(value), self._values[value]
        alike = [known for known in held if runs(shape, known) == runs(shape, layout)]
        home = (alike or list(held))[0]
        source = held[home]
        if alike or len(home) < len(layout):
            home = layout if alike else extended(home, len(layout))
            source = self._reshaped(value, source, home)
        if home == layout:
            return source
        target = self._make(value, layout)
        if len(layout) > 6:
            raise self.refuse(
                f"{value.name} has {len(layout)} dimensions, LiteRT transposes up to 6",
                "merge dimensions that stay together",
            )
        perm = self.ints([home.index(axis) for axis in layout])
        self.emit(Op.TRANSPOSE, [source, perm], [target], tfl.TransposeOptionsT())
        return target

    def _reshaped(self, value: ir.Value, source: int, layout: Layout) -> int:
        """Return tensor ``source`` of ``value`` in a ``layout`` that only has dimensions of 1 elsewhere."""
        target = self._make(value, layout)
        options = tfl.ReshapeOptionsT()
        options.newShape = list(self.flat.tensors[target].shape)
        self.emit(Op.RESHAPE, [source, self.ints(options.newShape)], [target], options)
        return target

    def _dequantized(self, value: ir.Value, carrier: ir.Value, layout: Layout) -> int:
        key = (value, layout)
        if key not in self._floats:
            name = value.name or ""
            if self.plan.names.get(carrier) == name:
                name += ".float"  # the carrier has the name: it is the graph's output
            name = named(name, len(self.shape(value)), layout)
            if carrier.dtype == ir.DataType.INT32:
                raise self.refuse(
                    f"{value.name} is an int32 bias of a float computation",
                    "quantize the input and the output of the operator too, or leave its bias float",
                )
            source = self.place(carrier, layout)
            self._floats[key] = self.scratch(name, self.flat.tensors[source].shape)
            self.emit(Op.DEQUANTIZE, [source], [self._floats[key]])
        return self._floats[key]


def same(one: Affine, other: Affine) -> bool:
    """Return whether two quantizations are equal once their scales are float32."""
    scales = np.array(one.scale, np.float32), np.array(other.scale, np.float32)
    return (one.dtype, one.zero_point) == (other.dtype, other.zero_point) and np.array_equal(*scales)


def _alike(shape: Sequence[int], layout: Layout) -> bool:
    """Return whether a value of ``shape`` has the same bytes in ``layout`` as in the model's own."""
    return runs(shape, layout) == runs(shape, plain(len(layout)))


def _view(shape: Sequence[int], layout: Layout) -> Callable[[Array], Array] | None:
    """Return what puts a stored array into ``layout``, None where it is the model's own."""
    if layout == plain(len(shape)):
        return None
    whole = laid_out(shape, plain(len(layout)))
    return lambda held: held.reshape(whole).transpose(layout)


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
