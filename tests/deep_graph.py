"""A small graph of equal blocks, for the tests of what makes many of a few."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from m4c.models.graph import Graph, GraphModule, Port, Repetition, Sizes
from m4c.skeleton import skeleton
from m4c.weights import Array

WIDTH = 4


class Block(nn.Module):
    """Reads its own input, something shared, and what the block before made; returns two values."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH, WIDTH, bias)

    def forward(self, x: Tensor, gate: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        inner: Tensor = self.fc(self.norm(x)) * gate + extra
        return x + inner, inner * 2


class Deep(GraphModule):
    """Blocks with something before and after them."""

    def forward(self, x: Tensor, *extras: Tensor) -> tuple[Tensor, ...]:
        gate, results = torch.sigmoid(x), []
        for number, (block, extra) in enumerate(zip(self.source["blocks"], extras, strict=True)):
            x, result = block(self.before(number, x), gate, extra)
            results.append(result)
        return (self.after(x, results), *results)

    def before(self, number: int, x: Tensor) -> Tensor:
        return x

    def after(self, x: Tensor, results: list[Tensor]) -> Tensor:
        y: Tensor = self.source["head"](x)
        return y


def shape_of(name: str) -> Port:
    return Port(name, "float32", ("batch", WIDTH), "numbers")


def source(count: int, block: Callable[[int], nn.Module] = lambda number: Block()) -> nn.ModuleDict:
    blocks = nn.ModuleList(block(number) for number in range(count))
    return nn.ModuleDict({"blocks": blocks, "head": nn.Linear(WIDTH, WIDTH)}).eval()


def deep(
    count: int, kind: type[Deep] = Deep, block: Callable[[int], nn.Module] = lambda number: Block()
) -> Graph:
    inputs = (shape_of("x"), *(shape_of(f"extra_{number}") for number in range(count)))
    outputs = (shape_of("y"), *(shape_of(f"result_{number}") for number in range(count)))

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, Array]:
        return {p.name: rng.standard_normal(p.sized(sizes)).astype(np.float32) for p in inputs}

    def shortened(fewer: int) -> Graph:
        with skeleton():
            return deep(fewer, kind, block)

    repeats = Repetition("blocks", count, shortened)
    return Graph(
        "tiny/deep", kind(source(count, block)), inputs, outputs, sample, sizes={"batch": 2}, repeats=repeats
    )


def whole(graph: Graph) -> Graph:
    """Return the graph as one that states nothing: an ordinary capture."""
    return replace(graph, repeats=None)
