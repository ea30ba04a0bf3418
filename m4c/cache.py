"""Key-value caches at the border of a graph: which output is which input of the next call, and how narrow ones are stored.

A cache is (batch, heads, steps, head_dim). In ``float16`` it holds the numbers themselves. In ``int8`` it holds codes, and each
step of each head has a float32 scale in a port of its own: ``real = code · scale``, where scale is the largest magnitude / 127.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import numpy as np

Array = np.ndarray

TYPES = ("float32", "float16", "int8")
"""What caches can be stored in."""

HIGHEST = 127
"""The largest code; the smallest is its negative."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""The scale of steps that are zero."""


class Named(Protocol):
    """A port, or a value at the border of a graph."""

    @property
    def name(self) -> str | None:
        """What it is called."""


Port = TypeVar("Port", bound=Named)


def pairs(inputs: Iterable[Port], outputs: Iterable[Port]) -> list[tuple[Port, Port]]:
    """Return each input that is a cache, or the scales of one, with the output that is the same after the call."""
    pasts = [port for port in inputs if str(port.name).startswith("past_")]
    presents = [port for port in outputs if str(port.name).startswith("present")]
    return list(zip(pasts, presents, strict=True))


def narrowed(kind: str, inputs: Iterable[Port], outputs: Iterable[Port]) -> list[tuple[Port, Port]]:
    """Return the :func:`pairs` of caches that are stored in ``kind``: none where that is float32, as they are computed."""
    return [] if kind == "float32" else pairs(inputs, outputs)


def scale_of(name: str) -> str:
    """Return the name of the port with the scales of the cache ``name``."""
    return f"{name}_scale"


def without_scales(names: Iterable[str]) -> list[str]:
    """Return ``names`` without those of the scales of others."""
    listed = list(names)
    scales = {scale_of(name) for name in listed}
    return [name for name in listed if name not in scales]


def stored(values: Mapping[str, Array], caches: Iterable[str], kind: str) -> dict[str, Array]:
    """Return ``values`` with each of ``caches`` (float32) as it is stored in ``kind``, rounded to nearest."""
    made, narrow = {}, set(caches)
    for name, value in values.items():
        if name not in narrow or kind == "float32":
            made[name] = value
        elif kind == "float16":
            made[name] = value.astype(np.float16)
        else:
            scale = _scale(value)
            made[name] = np.rint(value / scale).astype(np.int8)
            made[scale_of(name)] = scale
    return made


def real(values: Mapping[str, Array]) -> dict[str, Array]:
    """Return ``values`` with every stored cache as the float32 numbers that it stands for."""
    made = {}
    for name in without_scales(values):
        value = values[name]
        if scale_of(name) in values:
            made[name] = value.astype(np.float32) * values[scale_of(name)]
        else:
            made[name] = value.astype(np.float32) if value.dtype == np.float16 else value
    return made


def beyond_rounding(true: Array, found: Array, kind: str) -> Array:
    """Return ``found``, numbers that a cache of ``kind`` stands for, nearer to ``true`` by what rounding that may cost.

    So the figures of a comparison tell of errors alone. float16 has a tolerance of its own, as it is computed in too.
    """
    if kind != "int8":
        return found
    apart = found - true
    return np.asarray(true + np.sign(apart) * np.maximum(np.abs(apart) - _scale(true) / 2, 0), np.float32)


def _scale(value: Array) -> Array:
    """Return the scales (batch, heads, steps, 1) of a cache."""
    largest = np.abs(value).max(axis=-1, keepdims=True) / np.float32(HIGHEST)
    return np.asarray(np.maximum(largest, np.float32(SMALLEST_SCALE)), np.float32)
