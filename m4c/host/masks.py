"""The two small inputs that every cached decoder wants beside its tokens: a mask and positions."""

import numpy as np

HIDDEN = np.float32(-1e9)
"""Added to a score that must not count: exactly 0 after a float32 softmax, and finite in sums."""


def causal_mask(sequence: int, past: int) -> np.ndarray:
    """Return the additive mask (1, 1, sequence, past + sequence), float32: 0 = attend, -1e9 = hidden."""
    later = np.arange(past + sequence)[None, :] > np.arange(past, past + sequence)[:, None]
    return np.where(later, HIDDEN, np.float32(0))[None, None]


def positions(sequence: int, past: int) -> np.ndarray:
    """Return the positions (1, sequence) of the tokens after ``past`` earlier ones, int64."""
    return np.arange(past, past + sequence, dtype=np.int64)[None]
