"""Lazy weights: a weight is a recipe, and the file that is being written is the only place where it is read.

Every tensor of a checkpoint enters a model as a :class:`Recipe` that knows its name, dtype and shape, and how to be read. A
pass that changes a weight wraps the recipe in another with :func:`derive`. Nothing is cached: a recipe holds no array. Most
recipes can be read in parts, so the peak memory of a compile is that of a few pieces, whatever the size of the model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from m4c.errors import Bug

Array = np.ndarray

Part = Callable[[slice], Array]
"""Reads the rows of a slice."""

CONSTANT_BYTES = 256
"""Initializers up to this size are constants in memory (axes, shapes, epsilons); larger ones are weights."""


class Recipe(ir.LazyTensor):
    """A lazy tensor that may be read in parts.

    ``part`` reads the rows of a slice of the first axis; None means that only the whole can be read. ``origin`` is what a pass
    needs to know of how the values come about, beside their dtype and shape. ``step`` is how many rows are best read at once.
    """

    def __init__(
        self,
        name: str,
        dtype: ir.DataType,
        shape: tuple[int, ...],
        read: Callable[[], Array],
        part: Part | None = None,
        origin: object = None,
        step: int | None = None,
    ) -> None:
        """Take how to ``read`` all values; see :func:`lazy`."""
        super().__init__(self._whole, dtype=dtype, shape=ir.Shape(shape), name=name)
        self._read, self._part, self.origin, self.step = read, part, origin, step

    @property
    def divisible(self) -> bool:
        """Whether a part can be read without the rest."""
        return self._part is not None

    def part(self, rows: slice) -> Array:
        """Return the values of ``rows`` of the first axis; they lie within it."""
        if self._part is None:
            return array(self)[rows]
        return self._checked(self._part(rows), (rows.stop - rows.start, *self.shape.numpy()[1:]))

    def _whole(self) -> ir.TensorProtocol:
        value = self._checked(self._read(), self.shape.numpy())
        return ir.Tensor(np.asarray(value, order="C"), dtype=self.dtype, shape=self.shape, name=self.name)

    def _checked(self, value: Array, shape: tuple[int, ...]) -> Array:
        """Return ``value``, or raise if it is not of the declared dtype and of ``shape``."""
        if tuple(value.shape) != shape or value.dtype != self.dtype.numpy():
            raise Bug(
                f"the recipe of {self.name} gave {value.dtype}{list(value.shape)}, "
                f"declared was {self.dtype.numpy()}{list(shape)}",
                where=str(self.name),
            )
        return value


def lazy(
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    read: Callable[[], Array],
    part: Part | None = None,
    origin: object = None,
    step: int | None = None,
) -> Recipe:
    """Return a tensor that calls ``read`` at each use and refuses an array of another dtype or shape.

    ``read`` and ``part`` may be called from several threads. For sub-byte dtypes they return unpacked ``ml_dtypes`` arrays.
    """
    return Recipe(name, dtype, tuple(int(d) for d in shape), read, part, origin, step)


def array(tensor: ir.TensorProtocol) -> Array:
    """Return the values of ``tensor``: the one place that reads a whole weight."""
    return np.asarray(tensor.numpy())


@dataclass(frozen=True, slots=True)
class Transposed:
    """The origin of a matrix that is another one turned around."""

    matrix: ir.TensorProtocol


def turned(name: str, matrix: ir.TensorProtocol) -> Recipe:
    """Return ``matrix`` turned around, as a recipe that tells it: who wants its rows can read that in parts."""
    dims = matrix.shape.numpy()[::-1]
    return lazy(name, matrix.dtype, dims, lambda: array(matrix).T, origin=Transposed(matrix))


def untransposed(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
    """Return the matrix whose rows are the columns of ``tensor``, if it is known to be one turned around."""
    origin = getattr(tensor, "origin", None)
    return origin.matrix if isinstance(origin, Transposed) else None


@dataclass(frozen=True, slots=True)
class Sliced:
    """The origin of a matrix that is ``rows`` of another, as the products of queries, keys and values share one."""

    matrix: ir.TensorProtocol
    rows: slice


@dataclass(frozen=True, slots=True)
class Folded:
    """The origin of a weight that was computed from others: no tensor of the source has its values."""


def converted(
    tensor: ir.TensorProtocol,
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    convert: Callable[[Array], Array],
    origin: object = None,
) -> Recipe:
    """Return a recipe that applies ``convert``, which sees each row for itself, to the whole of ``tensor`` or to its parts."""
    return lazy(
        name,
        dtype,
        shape,
        lambda: convert(array(tensor)),
        (lambda rows: convert(part(tensor, rows))) if divisible(tensor) else None,
        origin,
    )


def part(tensor: ir.TensorProtocol, rows: slice) -> Array:
    """Return ``rows`` of the first axis of ``tensor``, reading no more than that where its recipe allows."""
    return tensor.part(rows) if isinstance(tensor, Recipe) else array(tensor)[rows]


def divisible(tensor: ir.TensorProtocol) -> bool:
    """Return whether :func:`part` reads less than the whole."""
    return isinstance(tensor, Recipe) and tensor.divisible


def stretches(tensor: ir.TensorProtocol, size: int) -> list[slice]:
    """Return the rows of ``tensor`` in stretches of about ``size`` bytes: a single one if it cannot be divided."""
    shape = tensor.shape.numpy()
    if isinstance(tensor, Recipe) and tensor.divisible and tensor.step:
        return spans(shape[0], tensor.step)
    if not divisible(tensor) or not shape or not shape[0] or tensor.nbytes <= size:
        return [slice(0, shape[0] if shape else 1)]
    return spans(shape[0], max(1, size * shape[0] // tensor.nbytes))


def spans(count: int, step: int) -> list[slice]:
    """Return 0…``count`` cut into slices of ``step``, the last of which may be shorter."""
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


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
