"""What emit functions work with: tensors for IR values, constants, scratch tensors, operators.

The one idea: a function asks :meth:`Lowering.read` for the tensor of an input and writes within :meth:`Lowering.result`;
whether the tensors are float or integer, what has to be converted around the operator, and in which layout the values lie
(:mod:`m4c.layouts`), is decided here. A transposition is an operator of the file only where a value is read in another layout
than it was made in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.blockwise import BlockwiseWeight
from m4c.layouts import Layout, named
from m4c.targets.emit_tflite.flat import Affine, ByChannel, Content, Grouped, Tensor
from m4c.targets.emit_tflite.placing import Placing, checked, same, untyped
from m4c.targets.emit_tflite.units import behind
from m4c.weights import Transposed, small

Array = np.ndarray
Op = tfl.BuiltinOperator
TURNED = "transposed"
"""The layout of a matrix whose rows are the columns of the model's."""

KERNEL = "kernel"
"""The layout of such a matrix as a convolution of 1×1 has it: the same bytes in another shape."""


@dataclass
class Lowering(Placing):
    """One model on its way into ``flat``; ``unit`` is the piece that is being emitted."""

    _floats: dict[tuple[ir.Value, Layout], int] = field(default_factory=dict)
    _layouts: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def integer(self) -> bool:
        """Return whether the unit computes in integers."""
        return self.unit in self.plan.integer

    # values of the IR

    def values(self, value: ir.Value | None, what: str) -> Array:
        """Return the values of a constant input that is an attribute of the TFLite operator."""
        held = small(value)
        if held is None:
            raise self.refuse(f"{what} is computed", "fold it to a constant first (shapes must be static)")
        return held

    def port(self, value: ir.Value) -> int:
        """Return the tensor that stands for ``value`` at the border of the graph: the int8 one if there is one."""
        return self.place(self.plan.carrier.get(value, value))

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

    def wanted(self, value: ir.Value) -> Affine | None:
        """Return the quantization that the model gives to a result of the unit, None if it is float."""
        return self.plan.affine.get(self.plan.carrier[value]) if value in self.plan.carrier else None

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
                raise untyped(carrier)
            source = checked(carrier)
            origin = getattr(source, "origin", None)
            if layout in (TURNED, KERNEL) and isinstance(origin, Transposed):
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
