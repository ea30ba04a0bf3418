"""Modules beside litert-torch and ai-edge-quantizer: the same numbers in float, no more lost in int8."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4c.models.graph import Graph, GraphModule, Port
from m4c.numerics import TOLERANCE, difference, sqnr
from m4c.source import TorchSource

pytest.importorskip("litert_torch", reason="pip install -e .[oracle], in an environment of its own")
pytest.importorskip("ai_edge_quantizer")

from m4c.checkpoints.random import random_weights
from tests.benchmarks import peer

MORE_DB = 0.5
"""What theirs may have more in int8: rounding on a few numbers is luck."""

pytestmark = pytest.mark.filterwarnings("ignore")


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attention(nn.Module):
    """Queries, keys and values from one product, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        made = F.softmax(q @ k.transpose(-1, -2) / 4.0, -1) @ v
        out: Tensor = self.out(made.transpose(1, 2).flatten(2))
        return out


class Called(GraphModule):
    """A module of one input and one output."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.source(x)
        return made


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(64, 32), (1, 12, 64)),
    "linear-gelu-linear": (
        lambda: nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)),
        (1, 9, 32),
    ),
    "linear-silu": (lambda: nn.Sequential(nn.Linear(32, 32), nn.SiLU()), (1, 9, 32)),
    "layer-norm": (lambda: nn.LayerNorm(64), (1, 9, 64)),
    "group-norm": (lambda: nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU()), (1, 16, 8, 8)),
    "convolution": (lambda: nn.Conv2d(8, 16, 3, padding=1), (1, 8, 12, 12)),
    "strided-convolution": (lambda: nn.Conv2d(8, 16, 3, stride=2, padding=1), (1, 8, 12, 12)),
    "depthwise-convolution": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 12, 12)),
    "convolution-1d": (lambda: nn.Conv1d(8, 16, 3, padding=1), (1, 8, 20)),
    "attention": (Attention, (1, 10, 32)),
    "softmax": (lambda: Function(lambda x: F.softmax(x, -1)), (1, 4, 10)),
    "nearest": (
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1)),
        (1, 4, 6, 6),
    ),
    "concat-mean": (lambda: Function(lambda x: torch.cat([x, x * 2], -1).mean(1)), (1, 6, 16)),
    "unit-length": (lambda: Function(lambda x: F.normalize(x, dim=-1)), (1, 6, 32)),
}


def source_of(name: str) -> TorchSource:
    make, shape = MODULES[name]
    module = make().eval()
    weights = random_weights(module, 0)
    peer.filled(module, weights)
    with torch.no_grad():
        made = module(torch.zeros(shape))
    taken = Port("x", "float32", shape, "numbers")
    given = Port("y", "float32", tuple(made.shape), "numbers")
    graph = Graph(
        "imu_enc/encoder",
        Called(module),
        (taken,),
        (given,),
        lambda rng, _: {"x": rng.standard_normal(shape).astype(np.float32)},
    )
    return TorchSource(graph, weights)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_the_numbers_of_the_oracle(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    samples = [source.sample(seed) for seed in range(1, 9)]
    unseen = [source.sample(seed) for seed in range(101, 109)]
    wanted = [peer.eager(source, sample)[0] for sample in unseen]

    plain = peer.theirs(source, samples[0], tmp_path / "theirs.tflite")
    own = peer.ours(source, samples, tmp_path / "ours.tflite", "float32")
    ran = [[peer.Runner(path, source.graph)(sample)[0] for sample in unseen] for path in (own, plain)]
    for ours, theirs in zip(*ran, strict=True):
        assert difference(theirs, ours).max_relative <= TOLERANCE["float32"]

    other = peer.rounded(plain, "static_wi8_ai8", samples, source.graph, tmp_path / "theirs8.tflite")
    own = peer.ours(source, samples, tmp_path / "ours8.tflite")
    losses = []
    for path in (own, other):
        runner = peer.Runner(path, source.graph)
        made = [runner(sample)[0] for sample in unseen]
        losses.append(sqnr(np.stack(wanted), np.stack(made)))
    assert losses[0] >= losses[1] - MORE_DB
