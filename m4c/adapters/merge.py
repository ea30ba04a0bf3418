"""Merging: an adapter becomes part of the weights, as recipes that read some rows at a time.

W' = W + weight · scale · B·A, and for DoRA  W' = m / ‖W + scale · B·A‖ · (W + scale · B·A), the norm of each row.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from m4c.adapters.folder import Adapter, Pair
from m4c.errors import CheckpointError, UsageError
from m4c.weights import Array, array, converted, divisible, lazy, part

Weights = Mapping[str, ir.TensorProtocol]


def merged(weights: Weights, adapters: Sequence[Adapter]) -> dict[str, ir.TensorProtocol]:
    """Return ``weights`` with every one of ``adapters`` merged; nothing is read now.

    Raises:
        UsageError: if two adapters store one weight whole, or a weighted one does, or one that is not a sum meets another.
    """
    made, whole = dict(weights), dict[str, str]()
    for adapter in adapters:
        for name in adapter.replaced:
            _refuse_weight(adapter, f"{name} is stored whole")
            if name in whole:
                raise _two(adapter.name, whole[name], name)
            whole[name] = adapter.name
            made[name] = _replaced(adapter, name, made[name])
    summed, rescaled = dict[str, str](), dict[str, str]()
    for adapter in adapters:
        for pair in adapter.pairs:
            module, dora = pair.place.module, pair.magnitude is not None
            if dora:
                _refuse_weight(adapter, f"{module} is rescaled by DoRA")
            other = rescaled.get(module) or (summed.get(module) if dora else None)
            if other is not None:
                raise _two(adapter.name, other, module)
            (rescaled if dora else summed)[module] = adapter.name
            _add(made, pair, adapter.weight * pair.scale)
    return made


def _add(made: dict[str, ir.TensorProtocol], pair: Pair, factor: float) -> None:
    """Let the weights hold what ``pair`` changes."""
    place = pair.place
    made[place.weight] = _changed(made[place.weight], pair, factor)
    if pair.bias is not None and place.bias is not None:
        made[place.bias] = _moved(made[place.bias], pair.bias, factor)


def _refuse_weight(adapter: Adapter, why: str) -> None:
    """Raise if a change that is no sum is to be weighted."""
    if adapter.weight != 1:
        raise UsageError(
            f"adapter {adapter.name} cannot be weighted by {adapter.weight:g}: {why}",
            fix="leave its weight out",
        )


def _two(name: str, other: str, where: str) -> UsageError:
    return UsageError(
        f"adapters {other} and {name} both change {where}, and do not add up", fix="merge only one of them"
    )


def _changed(weight: ir.TensorProtocol, pair: Pair, factor: float) -> ir.TensorProtocol:
    """Return ``weight`` with ``factor · B·A`` added to the rows of the pair, a part at a time."""
    shape, first = weight.shape.numpy(), pair.place.first
    end = first + pair.place.shape[0]

    def change(values: Array, rows: slice) -> Array:
        low, high = max(rows.start, first), min(rows.stop, end)
        if low >= high:
            return values
        made = np.array(values, dtype=np.float32).reshape(len(values), -1)
        inner = slice(low - rows.start, high - rows.start)
        left = pair.left()[low - first : high - first] * np.float32(factor)
        made[inner] += left @ pair.right()
        if pair.magnitude is not None:
            length = array(pair.magnitude).astype(np.float32).reshape(-1)[low - first : high - first]
            made[inner] *= (length / np.linalg.norm(made[inner], axis=1))[:, None]
        return made.reshape(values.shape).astype(values.dtype, copy=False)

    return lazy(
        str(weight.name),
        weight.dtype,
        shape,
        lambda: change(array(weight), slice(0, shape[0])),
        (lambda rows: change(part(weight, rows), rows)) if divisible(weight) else None,
    )


def _moved(bias: ir.TensorProtocol, change: ir.TensorProtocol, factor: float) -> ir.TensorProtocol:
    """Return ``bias`` with a change added."""

    def read() -> Array:
        moved = array(bias) + np.float32(factor) * array(change).astype(np.float32)
        return np.asarray(moved, bias.dtype.numpy())

    return lazy(str(bias.name), bias.dtype, bias.shape.numpy(), read)


def _replaced(adapter: Adapter, name: str, before: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return what an adapter stores in place of a weight, in its dtype."""
    stored, dtype = adapter.replaced[name], before.dtype

    def checked(values: Array) -> Array:
        made = values.astype(dtype.numpy())
        if not np.isfinite(made.astype(np.float32)).all():
            raise CheckpointError(
                f"adapter {adapter.name}: {name} holds values that are not numbers",
                where=str(adapter.file),
                fix="get a sound adapter",
            )
        return made

    return converted(stored, name, dtype, before.shape.numpy(), checked)
