"""Capture: a torch module becomes an ``onnx_ir.Model`` whose weights are names, not numbers.

This is the only caller of torch.export and of torch's ONNX exporter. Parameters are fake throughout
(:mod:`m4c.skeleton`); in the model they are lazy tensors that :func:`bind` ties to a checkpoint.
"""

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from m4c.errors import Bug, CaptureError
from m4c.models.graph import Graph, Port
from m4c.quant import set_whole
from m4c.quiet import quiet
from m4c.repeat import is_deep, stamp
from m4c.skeleton import FAKE
from m4c.stamping import CAPTURED
from m4c.weights import Array, lazy

OPSET = 20
"""Opset of captured models: the first with ``Gelu`` as one operator."""

SOURCE = "source."
DTYPES = {"float32": torch.float32, "int64": torch.int64}
LISTED = functools.cache(ONNXRegistry.from_torchlib)
"""torch's ONNX functions of an opset; nothing is added to them by an export."""
FROM_CHECKPOINT = "m4c.checkpoint"
"""Metadata key of an initializer whose values come from the checkpoint."""


def capture(graph: Graph, dynamic: frozenset[str] = frozenset()) -> ir.Model:
    """Return the model of ``graph``; dimensions in ``dynamic`` stay symbolic, beside those that always do.

    Of a deep graph a few blocks are captured and the others stamped (:mod:`m4c.repeat`).
    Weights are unbound: reading one is a :class:`Bug` until :func:`bind` has been called.

    Raises:
        CaptureError: if torch.export or the ONNX exporter cannot turn the module into a graph, or equal blocks differ.
    """
    if not is_deep(graph):
        return to_model(graph, exported(graph, dynamic))
    short = _shortened(graph)
    model = translate(short, dynamic).model
    _name_interface(model, short)
    stamp(model, short, graph, SOURCE)
    _name_weights(model, graph)
    return model


def to_model(graph: Graph, program: torch.export.ExportedProgram) -> ir.Model:
    """Return the model of ``graph``, of which torch.export made ``program``, with unbound weights.

    Raises:
        CaptureError: if the ONNX exporter cannot turn the program into a graph.
    """
    model = _translated(graph, program).model
    _name_interface(model, graph)
    _name_weights(model, graph)
    return model


def translate(graph: Graph, dynamic: frozenset[str] = frozenset()) -> torch.onnx.ONNXProgram:
    """Return torch's own translation of ``graph``, with fake weights and torch's names.

    Its ``exported_program`` is the decomposed program, each of whose nodes has a value of the same name in ``model``.

    Raises:
        CaptureError: if torch.export or the ONNX exporter cannot turn the module into a graph.
    """
    return _translated(graph, exported(graph, dynamic))


def _translated(graph: Graph, program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    """Return torch's own translation of a ``program`` of ``graph``."""
    try:
        with _quiet(), _listed_once():
            made = torch.onnx.export(
                program, (), dynamo=True, optimize=False, verbose=False, opset_version=OPSET
            )
    except Exception as error:  # the exporter's errors have no public base
        raise CaptureError(
            f"torch's ONNX exporter failed: {_reason(error)}",
            where=graph.name,
            fix="replace the operator in the module's forward by ones that ONNX has",
        ) from error
    assert made is not None
    return made


@contextlib.contextmanager
def _listed_once() -> Iterator[None]:
    """Let the exporter list torch's ONNX functions once in a process: by itself it makes that list (0.4 s) at each call."""
    made = ONNXRegistry.__dict__["from_torchlib"]
    ONNXRegistry.from_torchlib = staticmethod(LISTED)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = made  # type: ignore[method-assign]


def _shortened(graph: Graph) -> Graph:
    """Return the deep ``graph`` with as many blocks as have to be captured."""
    assert graph.repeats is not None
    return replace(graph.repeats.shortened(CAPTURED), sizes=graph.sizes, dynamic=graph.dynamic)


def inner_name(name: str, graph: Graph) -> str:
    """Return the name in the captured model of what torch calls ``name``: ports own their names."""
    return f"{name}.inner" if name in {port.name for port in (*graph.inputs, *graph.outputs)} else name


def _reason(error: BaseException) -> str:
    """Return the first line of the error that caused ``error``: the exporter's own text is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def exported(graph: Graph, dynamic: frozenset[str] = frozenset()) -> torch.export.ExportedProgram:
    """Return torch.export's program of ``graph`` with fake weights, in the operators that its modules call.

    Raises:
        CaptureError: if torch.export cannot turn the module into a graph.
    """
    symbolic = graph.dynamic | dynamic
    # torch takes a size of 1 for a constant, so a dimension that is to vary is traced at 2 or more
    sizes = {name: max(2, size) if name in symbolic else size for name, size in graph.sizes.items()}
    with FAKE:
        arguments = tuple(torch.zeros(p.sized(sizes), dtype=DTYPES[p.dtype]) for p in graph.inputs)
    shapes = tuple(_dynamic_axes(port, symbolic) for port in graph.inputs)
    try:
        with _quiet():
            return torch.export.export(
                graph.module, arguments, dynamic_shapes=_as_signature(graph, shapes), strict=False
            )
    except Exception as error:
        raise CaptureError(
            f"torch.export failed: {_reason(error)}",
            where=graph.name,
            fix="make the module's control flow independent of tensor values",
        ) from error


def bind(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Tie every weight of ``model`` to the lazy tensor of its name in ``weights``; nothing is read."""
    for name, value in model.graph.initializers.items():
        if FROM_CHECKPOINT in value.metadata_props:
            value.const_value = weights[value.metadata_props[FROM_CHECKPOINT]]
            if value.const_value.dtype != value.dtype or tuple(value.const_value.shape) != value.shape:
                raise Bug(f"{name} was bound to a tensor of another dtype or shape", where=name)


def weights_of(model: ir.Model) -> frozenset[str]:
    """Return the keys of the checkpoint's tensors that a captured ``model`` reads."""
    props = (value.metadata_props for value in model.graph.initializers.values())
    return frozenset(found[FROM_CHECKPOINT] for found in props if FROM_CHECKPOINT in found)


def _dynamic_axes(port: Port, symbolic: frozenset[str]) -> dict[int, object]:
    """Return the axes of ``port`` that stay symbolic, as torch.export wants them."""
    return {
        axis: torch.export.Dim.DYNAMIC
        for axis, size in enumerate(port.shape)
        if isinstance(size, str) and symbolic & set(size.split(" + "))
    }


def _as_signature(graph: Graph, shapes: tuple[dict[int, object], ...]) -> tuple[object, ...]:
    """Fold the shapes of a ``*args`` parameter into one tuple, as torch.export wants them."""
    code = type(graph.module).forward.__code__
    named = code.co_argcount - 1
    return (*shapes[:named], shapes[named:]) if code.co_flags & 0x04 else shapes


def _name_interface(model: ir.Model, graph: Graph) -> None:
    """Give inputs, outputs and symbolic dimensions the names that the sub-model states."""
    if len(model.graph.outputs) != len(graph.outputs) or len(model.graph.inputs) != len(graph.inputs):
        raise Bug(
            f"captured {len(model.graph.inputs)} inputs and {len(model.graph.outputs)} outputs, "
            f"stated are {len(graph.inputs)} and {len(graph.outputs)}",
            where=graph.name,
        )
    symbols: dict[str, str] = {}
    for value, port in zip(model.graph.inputs, graph.inputs, strict=True):
        assert value.shape is not None
        for actual, stated in zip(value.shape, port.shape, strict=True):
            if (
                isinstance(actual, ir.SymbolicDim)
                and actual.value
                and isinstance(stated, str)
                and "+" not in stated
            ):
                symbols.setdefault(actual.value, stated)
    values = [v for n in model.graph for v in n.outputs] + list(model.graph.inputs)
    for value in values:
        value.name = inner_name(str(value.name), graph)
    for value, port in zip(model.graph.inputs, graph.inputs, strict=True):
        value.name = port.name
        if port.whole is not None:
            set_whole(value, *port.whole)
    _split_shared_outputs(model)
    for value, port in zip(model.graph.outputs, graph.outputs, strict=True):
        value.name = port.name
    sums = {
        _terms(d): d for port in (*graph.inputs, *graph.outputs) for d in port.shape if isinstance(d, str)
    }
    for value in values:
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([_rename_dim(dim, symbols, sums) for dim in value.shape])


def _split_shared_outputs(model: ir.Model) -> None:
    """Give each graph output a value of its own, where one value is returned twice or is an input."""
    seen: set[ir.Value] = set(model.graph.inputs)
    for index, value in enumerate(list(model.graph.outputs)):
        if value in seen:
            copy = ir.node("Identity", [value])
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            model.graph.append(copy)
            model.graph.outputs[index] = copy.outputs[0]
        seen.add(value)


def _rename_dim(
    dim: int | ir.SymbolicDim, symbols: Mapping[str, str], sums: Mapping[tuple[str, ...], str]
) -> int | str | None:
    """Return ``dim`` with torch's symbols replaced by stated names; a sum has its terms in the stated order."""
    if isinstance(dim, int):
        return dim
    if not dim.value:
        return None
    text = re.sub(r"\w+", lambda m: symbols.get(m[0], m[0]), dim.value)
    return sums.get(_terms(text), text)


def _terms(dim: str) -> tuple[str, ...]:
    """Return the terms of a sum in one order: torch's is that of symbols which have other names in each capture."""
    return tuple(sorted(dim.split(" + ")))


def _name_weights(model: ir.Model, graph: Graph) -> None:
    """Name initializers as the checkpoint does and drop the fake values; buffers without a checkpoint keep theirs."""
    state = {SOURCE + key for key in graph.module.source.state_dict()}
    for value in list(model.graph.initializers.values()):
        assert value.name is not None
        assert value.const_value is not None
        tensor = value.const_value
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        if value.name in state:
            value.name = value.name.removeprefix(SOURCE)
            value.metadata_props[FROM_CHECKPOINT] = value.name
            value.const_value = _unbound(value.name, tensor)
        elif isinstance(raw := getattr(tensor, "raw", None), torch._subclasses.FakeTensor):
            raise CaptureError(
                f"{value.name} {list(raw.shape)} is neither in the state dict nor a buffer with values",
                where=graph.name,
                fix="register it as a parameter or a persistent buffer",
            )
        else:
            value.const_value = ir.tensor(tensor.numpy(), name=value.name)


def _unbound(name: str, tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """Return a weight that knows its shape and refuses to be read."""

    def read() -> Array:
        raise Bug(f"{name} was read, but no checkpoint is bound", where=name)

    return lazy(name, tensor.dtype, tensor.shape.numpy(), read)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings, messages and dumped graphs from the user: what matters becomes an error of ours."""
    page = io.StringIO()
    with (
        quiet("torch", "torch.onnx"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(page),
        contextlib.redirect_stderr(page),
    ):
        warnings.simplefilter("ignore")
        yield
