"""Where values of the IR are in the file: a tensor for each value, in each layout (:mod:`m4c.layouts`) that it is read in.

A transposition is an operator of the file only where a value is read in another layout than it was made in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import UnsupportedError
from m4c.layouts import Layout, extended, laid_out, named, plain, runs
from m4c.model import module_path
from m4c.targets.emit_tflite.flat import Affine, Content, Flat, Tensor
from m4c.targets.emit_tflite.quantization import Plan
from m4c.targets.emit_tflite.units import Unit, behind
from m4c.targets.emit_tflite.versions import version
from m4c.weights import array, is_weight, stored

Array = np.ndarray
Op = tfl.BuiltinOperator
INT32 = np.iinfo(np.int32)


@dataclass
class Placing:
    """Values of one model on their way into ``flat``; ``unit`` is the piece that is being emitted."""

    flat: Flat
    plan: Plan
    unit: Unit
    towards: frozenset[ir.Value] = frozenset()
    """What goes into operators that want channels last, through others that take any layout."""
    layout: Layout | None = None
    """The layout of all that the unit reads and writes, where the operator takes any; None is the model's own."""
    _values: dict[ir.Value, dict[Layout, int]] = field(default_factory=dict)
    """By layout: the tensors of each value; it was made in the first."""
    _constants: dict[tuple[str, tuple[int, ...], bytes, Affine | None], int] = field(default_factory=dict)

    def refuse(self, reason: str, fix: str) -> UnsupportedError:
        """Return the error that says why the unit cannot be emitted."""
        return UnsupportedError(
            f"the TFLite emitter cannot emit {self.unit.operator}: {reason}", where=self.unit.where, fix=fix
        )

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape of ``value``, which must be static."""
        return static_shape(value)

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

    def affine(self, index: int) -> Affine | None:
        """Return the quantization of a tensor."""
        return self.flat.tensors[index].affine

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

    def emit(
        self, code: int, inputs: Sequence[int | None], outputs: Sequence[int], options: Any = None
    ) -> None:
        """Append an operator to the file."""
        indices = [-1 if index is None else index for index in inputs]
        read, made = ([self.flat.tensors[i] for i in part if i >= 0] for part in (indices, outputs))
        needed = version(code, read, made)
        self.flat.operator(code, indices, outputs, options, needed)

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
            content = Content(checked(value), _view(shape, layout))
        if value.dtype is None:
            raise untyped(value)
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


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of ``value``; a TFLite file has no dimension that is unknown."""
    if value.shape is None or not value.shape.is_static():
        raise UnsupportedError(
            f"{value.name} has the shape {value.shape}, and the TFLite emitter needs every dimension as a number",
            where=_maker(value),
            fix="capture the model with static shapes, and infer shapes after the last pass",
        )
    return tuple(value.shape.numpy())


def untyped(value: ir.Value) -> UnsupportedError:
    """Return the error for a value without a dtype."""
    return UnsupportedError(
        f"{value.name} has no dtype", where=_maker(value), fix="infer types after the last pass"
    )


def _maker(value: ir.Value) -> str:
    producer = value.producer()
    return str(value.name) if producer is None else f"{producer.op_type} node of {module_path(producer)}"


def checked(value: ir.Value) -> ir.TensorProtocol:
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
