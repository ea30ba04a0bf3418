"""What a target judges: a small read-only view of a graph, the same whether it came from a TFLite file, an ONNX file or the IR.

The idea: a rule asks for names, shapes, types and a few small constants, so that is all there is. Weights stay in their file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Array = np.ndarray
Format = Literal["onnx", "tflite"]
Shape = tuple[int | str, ...]
"""Sizes; a name where one changes from call to call."""

BITS = {
    "bool": 8,
    "int2": 2,
    "uint2": 2,
    "int4": 4,
    "uint4": 4,
    "int8": 8,
    "uint8": 8,
    "int16": 16,
    "uint16": 16,
    "float16": 16,
    "bfloat16": 16,
    "int32": 32,
    "uint32": 32,
    "float32": 32,
    "int64": 64,
    "uint64": 64,
    "float64": 64,
    "complex64": 64,
    "complex128": 128,
}
"""How many bits a value of each dtype takes; dtypes without a size (string, resource) are not here."""


@dataclass(frozen=True, slots=True)
class Held:
    """Values in memory: those of a small constant."""

    array: Array

    def __call__(self) -> Array:
        """Return the values."""
        return self.array


@dataclass(frozen=True, slots=True)
class Mapped:
    """Values in a file, mapped when they are asked for."""

    path: Path
    start: int
    dtype: str
    shape: tuple[int, ...]

    def __call__(self) -> Array:
        """Return the values, mapped and never written back."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape)


@dataclass(frozen=True, slots=True)
class Quantization:
    """Scales and zero points of a tensor; one of each, or one for each index of ``axis``, or scales kept elsewhere (none)."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value between nodes, or a constant. Two are the same if they are the same object."""

    name: str
    dtype: str
    """As numpy writes it: ``float32``, ``int8``; ``unknown`` where the file does not say."""
    shape: Shape | None
    """None where not even the rank is known."""
    constant: bool = False
    quantization: Quantization | None = None
    content: Held | Mapped | None = None
    """The values of a constant, as far as they can be read one by one."""
    dequantized: bool = False
    """Whether it is a constant that a node dequantizes."""

    @property
    def stored(self) -> bool:
        """Return whether it comes from the file, be it as it is or dequantized."""
        return self.constant or self.dequantized

    @property
    def static(self) -> bool:
        """Return whether every size is a number."""
        return self.shape is not None and all(isinstance(size, int) for size in self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of a static tensor."""
        assert self.static
        return tuple(size for size in self.shape or () if isinstance(size, int))

    @property
    def elements(self) -> int | None:
        """How many values it has, None if that changes from call to call."""
        return math.prod(self.sizes) if self.static else None

    @property
    def bytes(self) -> int | None:
        """How much memory it takes, None if that is not known."""
        count, bits = self.elements, BITS.get(self.dtype)
        return None if count is None or bits is None else (count * bits + 7) // 8

    def values(self) -> Array | None:
        """Return the values of a constant, None if it is computed or cannot be read alone."""
        return self.content() if self.content is not None else None

    def __str__(self) -> str:
        """Return name, dtype and shape, as reasons quote it."""
        shape = "of unknown rank" if self.shape is None else "×".join(map(str, self.shape)) or "scalar"
        return f"{self.name or 'a tensor'} ({self.dtype} {shape})"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator call."""

    index: int
    """Its place in execution order."""
    operator: str
    """``CONV_2D`` or a custom code in TFLite; ``Conv`` or ``com.microsoft::Gelu`` in ONNX."""
    format: Format
    version: int
    """The operator version in TFLite; in ONNX the opset of its domain."""
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Attributes: snake_case names as in TFLite's schema, ONNX's own names in ONNX."""
    where: str = ""
    """The module or the name that it came from."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that it reads or makes."""
        return (*(t for t in self.inputs if t is not None), *self.outputs)

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """Every tensor that is not a constant."""
        return tuple(t for t in self.tensors if not t.constant)

    def input(self, index: int) -> Tensor | None:
        """Return an input, None if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A graph, or a sub-graph of a TFLite file, in execution order."""

    name: str
    format: Format
    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def producers(self) -> Mapping[Tensor, Node]:
        """Who makes each tensor that a node makes."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}


def consumers(nodes: Sequence[Node]) -> dict[Tensor, list[Node]]:
    """Return who reads each tensor, in execution order, each node once."""
    found: dict[Tensor, list[Node]] = {}
    for node in nodes:
        for tensor in dict.fromkeys(t for t in node.inputs if t is not None):
            found.setdefault(tensor, []).append(node)
    return found
