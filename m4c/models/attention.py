"""Attention with a key-value cache, as every decoder here spells it: plain matrix products and one ``Concat`` a cache.

Heads are split and joined with one ``-1`` in place of the number of steps, so that a captured graph reshapes by constants
and computes no shapes at run time. Masks are additive inputs made by the host (:mod:`m4c.host.masks`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m4c.host.masks import HIDDEN, causal_mask, positions
from m4c.models.graph import Port, Sizes

POSITIONS = Port("positions", "int64", ("batch", "sequence"), "place of each step, from 0")
MASK = Port(
    "mask",
    "float32",
    ("batch", 1, "sequence", "past + sequence"),
    "added to the attention scores: 0 = attend, -1e9 = hidden",
    host={"kind": "causal-mask", "hidden": float(HIDDEN)},
)


CACHE_STEPS = 512
"""Steps of a cache and a call together, where a format wants numbers and nobody says how many."""

CACHE_BYTES = 64 << 20
"""The most that a whole cache of so many steps may have, in bytes: of LLaMA-7B, whose steps have a megabyte, 64 fit."""


def static_steps(max_steps: int, step_bytes: int) -> dict[str, int]:
    """Return the sizes of a cache that does not grow: one step a call, after as many as the model knows, within reason.

    ``step_bytes`` is what all layers keep of a step.
    """
    steps = min(max_steps, CACHE_STEPS)
    while steps > 1 and steps * step_bytes > CACHE_BYTES:
        steps //= 2
    return {"sequence": 1, "past": steps - 1}


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Turn ``x`` (batch, steps, heads · head_dim) into (batch, heads, steps, head_dim)."""
    return x.view(x.shape[0], -1, heads, x.shape[2] // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Turn ``x`` (batch, heads, steps, head_dim) into (batch, steps, heads · head_dim)."""
    return x.transpose(1, 2).reshape(x.shape[0], -1, x.shape[1] * x.shape[3])


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(query · keyᵀ / √head_dim + mask) · value; all (batch, heads, steps, head_dim)."""
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1) @ value


def grow(past: Tensor, new: Tensor) -> Tensor:
    """Return the cache ``past`` (batch, heads, past, head_dim) with the steps of ``new`` after its own."""
    return torch.cat((past, new), dim=2)


def cache_ports(prefix: str, layers: int, shape: tuple[int | str, ...], meaning: str) -> tuple[Port, ...]:
    """Return the ports ``<prefix>_key_0``, ``<prefix>_value_0``, ``<prefix>_key_1``, … of one shape."""
    return tuple(
        Port(f"{prefix}_{part}_{i}", "float32", shape, f"{part}s of layer {i}: {meaning}")
        for i in range(layers)
        for part in ("key", "value")
    )


def sample_floats(rng: np.random.Generator, ports: Sequence[Port], sizes: Sizes) -> dict[str, np.ndarray]:
    """Return standard-normal float32 values for ``ports``."""
    return {p.name: rng.standard_normal(p.sized(sizes)).astype(np.float32) for p in ports}


def sample_steps(sizes: Sizes) -> dict[str, np.ndarray]:
    """Return ``positions`` and the causal ``mask`` of ``sequence`` steps after ``past`` earlier ones."""
    batch, sequence, past = sizes["batch"], sizes["sequence"], sizes["past"]
    return {
        "positions": np.repeat(positions(sequence, past), batch, axis=0),
        "mask": np.repeat(causal_mask(sequence, past), batch, axis=0),
    }
