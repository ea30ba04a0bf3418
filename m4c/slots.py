"""Slots: where a graph takes an adapter's pair of factors beside a stored matrix. Imports no torch."""

from dataclasses import dataclass


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

    @property
    def down(self) -> str:
        """The name of the input that takes A."""
        return f"{self.module}.lora_A"

    @property
    def up(self) -> str:
        """The name of the input that takes B."""
        return f"{self.module}.lora_B"
