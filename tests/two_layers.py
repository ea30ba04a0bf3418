"""The smallest source that has everything: two linear layers with an activation, a norm and a buffer, in torch."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from m4c.models.graph import Graph, GraphModule, Port, Sizes, Submodel
from m4c.source import TorchSource
from m4c.weights import Array, lazy

WIDTH, HIDDEN = 8, 160
"""160 · 8 floats are above the size that is stored in the graph itself."""

X = Port("x", "float32", ("batch", 3, WIDTH), "numbers")
Y = Port("y", "float32", ("batch", 3, WIDTH), "other numbers")


class TwoLayers(nn.Module):
    """Two linear layers; ``shift`` is a buffer that no checkpoint holds."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.register_buffer("shift", torch.linspace(-1, 1, WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = self.down(torch.relu(self.up(self.norm(x)))) + self.shift
        return shifted


class Whole(GraphModule):
    """All of a source."""

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = self.source(*inputs)
        return made


def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal(X.sized(sizes)).astype(np.float32)}


def graph_of(module: GraphModule, inputs: tuple[Port, ...] = (X,), outputs: tuple[Port, ...] = (Y,)) -> Graph:
    return Graph("tiny/whole", module, inputs, outputs, sample)


def tiny(seed: int = 0) -> Submodel:
    """Return the sub-model with real weights."""
    torch.manual_seed(seed)
    source = TwoLayers().eval()
    return Submodel("tiny", source, (graph_of(Whole(source)),), licence="none")


def weights_of(source: nn.Module) -> dict[str, ir.TensorProtocol]:
    """Return a lazy tensor for each entry of the state dict."""
    held = {name: value.detach().numpy().copy() for name, value in source.state_dict().items()}
    return {name: stored(name, values) for name, values in held.items()}


def stored(name: str, values: Array) -> ir.LazyTensor:
    """Return a lazy tensor over values in memory."""
    return lazy(name, ir.DataType.from_numpy(values.dtype), values.shape, lambda: values)


def source_of(
    submodel: Submodel, weights: Mapping[str, ir.TensorProtocol], dynamic: frozenset[str] = frozenset()
) -> TorchSource:
    return TorchSource(submodel.graphs[0], weights, dynamic)
