"""Slots: where a graph takes an adapter's pair of factors beside a stored matrix. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

DOWN, UP = ".lora_A", ".lora_B"
"""How the names of inputs that take A and B end."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one pair: ``x·W`` becomes ``x·W + (x·A)·B``, with A (inputs, rank) and B (rank, outputs).

    The scale is part of B. Of a table, A's rows are gathered as the table's are.
    """

    module: str
    """The torch module, or a part of a packed projection."""
    weight: str
    """The matrix's key in the state dict."""
    inputs: int
    outputs: int
    first: int = 0
    """The row of the weight that the matrix begins with."""
    table: bool = False
    limit: int | None = None
    """The rank that A and B always have, zeros after the adapter's own; None where any rank is taken."""

    @property
    def down(self) -> str:
        """The name of the input that takes A."""
        return f"{self.module}{DOWN}"

    @property
    def up(self) -> str:
        """The name of the input that takes B."""
        return f"{self.module}{UP}"


def is_factor(name: str) -> bool:
    """Return whether an input of a graph takes A or B of a slot."""
    return name.endswith((DOWN, UP))


def with_factors(inputs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return ``inputs`` with every A and B that a graph has an input for, by its ``shapes``.

    Zeros follow what a factor of a smaller rank holds; a slot that no factor is given for has zeros alone, and adds zeros.
    """
    made = dict(inputs)
    for name in filter(is_factor, shapes):
        shape = shapes[name]
        factor = made.get(name, np.zeros(shape, np.float32))
        axis = 0 if name.endswith(UP) else -1
        short = max(0, shape[axis] - factor.shape[axis])
        made[name] = np.pad(
            factor, [(0, short if a == axis % factor.ndim else 0) for a in range(factor.ndim)]
        )
    return made
