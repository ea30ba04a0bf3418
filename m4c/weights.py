"""Lazy weights: a weight is a recipe, and the file that is being written is the only place where it is read.

Every tensor of a checkpoint enters a model as an ``onnx_ir.LazyTensor`` that knows its name, dtype and shape, and how to be
read. A pass that changes a weight wraps the lazy tensor in another with :func:`derive`. Nothing is cached: a recipe holds no
array, so the peak memory of a compile is that of one weight, whatever the size of the model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from m4c.errors import Bug

Array = np.ndarray

CONSTANT_BYTES = 256
"""Initializers up to this size are constants in memory (axes, shapes, epsilons); larger ones are weights."""


def lazy(name: str, dtype: ir.DataType, shape: Sequence[int], read: Callable[[], Array]) -> ir.LazyTensor:
    """Return a tensor that calls ``read`` at each use and refuses an array of another dtype or shape.

    ``read`` may be called from several threads. For sub-byte dtypes it returns the unpacked ``ml_dtypes`` array.
    """
    fixed = tuple(int(d) for d in shape)

    def evaluate() -> ir.TensorProtocol:
        value = read()
        if tuple(value.shape) != fixed or value.dtype != dtype.numpy():
            raise Bug(
                f"the recipe of {name} gave {value.dtype}{list(value.shape)}, "
                f"declared was {dtype.numpy()}{list(fixed)}",
                where=name,
            )
        return ir.Tensor(np.asarray(value, order="C"), dtype=dtype, shape=ir.Shape(fixed), name=name)

    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(fixed), name=name)


def array(tensor: ir.TensorProtocol) -> Array:
    """Return the values of ``tensor``: the one place that reads a weight."""
    return np.asarray(tensor.numpy())


def derive(
    source: ir.Value,
    suffix: str,
    change: Callable[[Array], Array],
    *,
    shape: Sequence[int],
    dtype: ir.DataType | None = None,
) -> ir.Value:
    """Return a new initializer value ``<source>.<suffix>`` whose recipe is ``change`` applied to ``source``.

    The value is not registered with a graph; :func:`register` does that.
    """
    tensor = source.const_value
    if tensor is None or source.name is None:
        raise Bug(f"{source.name} is computed, not stored")
    name, kind = f"{source.name}.{suffix}", dtype or tensor.dtype
    return stored_value(lazy(name, kind, shape, lambda: change(array(tensor))))


def stored_value(tensor: ir.TensorProtocol) -> ir.Value:
    """Return an initializer value for ``tensor``, typed and shaped like it (onnx_ir does not do that itself)."""
    return ir.Value(
        name=tensor.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )


def register(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Register ``value`` as an initializer of ``graph``, or return the one that already has its name.

    Equal names stand for equal recipes; two of different dtypes or shapes are a bug.
    """
    assert value.name is not None
    known = graph.initializers.get(value.name)
    if known is not None:
        if (known.dtype, known.shape) != (value.dtype, value.shape):
            raise Bug(f"two initializers called {value.name}", where=value.name)
        return known
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    """Register a small constant under ``name``; an equal one of that name is reused, another is a bug."""
    known = graph.initializers.get(name)
    if known is not None:
        held = small(known)
        if held is None or not _identical(held, values):
            raise Bug(f"two constants called {name}", where=name)
        return known
    return register(graph, stored_value(ir.tensor(values, name=name)))


def _identical(a: Array, b: Array) -> bool:
    """Return whether two arrays have one dtype, one shape and the same bytes; so a NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def stored(value: ir.Value | None) -> bool:
    """Return whether ``value`` is stored in the model (a weight or a constant) rather than computed."""
    return value is not None and value.const_value is not None


def is_weight(value: ir.Value) -> bool:
    """Return whether ``value`` is a lazy initializer, which passes must not read."""
    return isinstance(value.const_value, ir.LazyTensor | ir.ExternalTensor)


def small(value: ir.Value | None) -> Array | None:
    """Return the values of an in-memory constant, or None for anything computed or lazy."""
    if value is None or value.const_value is None or is_weight(value):
        return None
    return array(value.const_value)


@contextmanager
def hidden(model: ir.Model) -> Iterator[None]:
    """Take the lazy weights away while a foreign optimizer works on ``model``; it would read them otherwise.

    Types and shapes stay. Weights that the optimizer removed as unused stay removed.
    """
    held = {value: value.const_value for value in model.graph.initializers.values() if is_weight(value)}
    for value in held:
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in held.items():
            value.const_value = tensor
