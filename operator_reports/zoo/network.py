"""What a builder of the zoo returns: graphs of m4c, from a module and the shapes of what it is called with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from m4c.models.graph import Graph, GraphModule, Port, Sizes

Shape = tuple[int, ...]
Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Ids:
    """An input of int64 numbers, such as tokens."""

    shape: Shape


class _Called(GraphModule):
    """A module called in a way of its own."""

    def __init__(self, source: nn.Module, call: Call) -> None:
        """Keep the module and how to call it."""
        super().__init__(source)
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        """Return what the call returns."""
        return self.call(self.source, *inputs)


def graph(name: str, source: nn.Module, call: Call | None = None, **inputs: Shape | Ids) -> Graph:
    """Return a graph whose module is ``call(source, *inputs)``, by default ``source(*inputs)``; shapes have the batch.

    Its outputs are not stated: :func:`m4c.operator_reports.zoo.measure.measured` finds them.
    """
    ports = tuple(
        Port(key, "int64", value.shape, "numbers")
        if isinstance(value, Ids)
        else Port(key, "float32", value, "values")
        for key, value in inputs.items()
    )
    module = _Called(source.eval(), call or (lambda module, *given: module(*given)))
    return Graph(name, module, ports, (), _nothing, sizes={})


def _nothing(_rng: np.random.Generator, _sizes: Sizes) -> dict[str, np.ndarray]:
    """Make no inputs: a graph of the zoo is never run."""
    raise NotImplementedError


class Stack(nn.Module):
    """Layers of torch's transformer in a row, as ``nn.TransformerDecoder`` has them, without its test of the masks' values."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Keep ``layers``."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *others: Tensor, **options: Any) -> Tensor:
        """Return ``x`` after all layers, each given the same ``others`` and ``options``."""
        for layer in self.layers:
            x = layer(x, *others, **options)
        return x
