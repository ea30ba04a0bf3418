from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from m4c import layerwise
from m4c.blockwise import BlockwiseWeight
from m4c.eager import run_eager
from m4c.errors import NumbersError, UsageError
from m4c.grid import Grid
from m4c.host.masks import causal_mask, positions
from m4c.layerwise import calibrate
from m4c.models.graph import Graph
from m4c.models.llama import build
from m4c.models.llama_sizes import NANO
from m4c.numerics import sqnr
from m4c.progress import Silent
from m4c.rounding.gptq import gptq
from m4c.rounding.rtn import round_to_nearest
from m4c.skeleton import skeleton
from m4c.weights import Array
from tests.rounding.matrices import correlated
from tests.two_layers import TwoLayers, Whole, graph_of, stored, tiny, weights_of

SIZES = replace(NANO, width=64, head_dim=16, ffn=128)
SAMPLES, STEPS = 8, 24
FOUR = Grid(4, 32)
Weights = Mapping[str, ir.TensorProtocol]


def decoder() -> tuple[Graph, dict[str, ir.TensorProtocol]]:
    """Return the nano decoder as a skeleton, and weights for it."""
    torch.manual_seed(0)
    weights = weights_of(build("backbone", SIZES).source)
    for name, tensor in weights.items():
        if name.endswith("proj.weight"):
            weights[name] = stored(
                name, tensor.numpy() * 3
            )  # so that layers do more than pass on what they got
    with skeleton():
        return build("backbone", SIZES).graphs[1], weights


def prompts(seed: int) -> dict[str, Array]:
    embeds = correlated(SAMPLES * STEPS, SIZES.width, seed).view(SAMPLES, STEPS, SIZES.width).numpy()
    empty = np.zeros((SAMPLES, SIZES.kv_heads, 0, SIZES.head_dim), np.float32)
    caches = {f"past_{part}_{i}": empty for i in range(SIZES.layers) for part in ("key", "value")}
    return {
        "embeds": embeds,
        "positions": np.repeat(positions(STEPS, 0), SAMPLES, axis=0),
        "mask": np.repeat(causal_mask(STEPS, 0), SAMPLES, axis=0),
        **caches,
    }


def linear(graph: Graph) -> list[str]:
    return [f"{n}.weight" for n, m in graph.module.source.named_modules() if isinstance(m, nn.Linear)]


def replaced(weights: Weights, made: Mapping[str, BlockwiseWeight]) -> dict[str, ir.TensorProtocol]:
    return {**weights, **{name: weight.dequantized() for name, weight in made.items()}}


def nearest(weights: Weights, names: list[str]) -> dict[str, ir.TensorProtocol]:
    """Return the weights with those of ``names`` rounded to nearest."""
    made = dict(weights)
    for name in names:
        held = torch.from_numpy(weights[name].numpy().copy())
        made[name] = stored(name, round_to_nearest(held, FOUR).dequantized().numpy())
    return made


def test_a_decoder_is_nearer_to_its_source_than_when_rounded_to_nearest(tmp_path: Path) -> None:
    graph, weights = decoder()
    names = linear(graph)
    assert len(names) == 15
    before = {name: tensor.numpy().copy() for name, tensor in weights.items()}
    made = calibrate(graph, weights, prompts(0), dict.fromkeys(names, FOUR), tmp_path, Silent())
    assert set(made) == set(names)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    for seed in (0, 1):
        expected = run_eager(graph, weights, prompts(seed))["logits"]
        ours = run_eager(graph, replaced(weights, made), prompts(seed))["logits"]
        theirs = run_eager(graph, nearest(weights, names), prompts(seed))["logits"]
        assert sqnr(expected, ours) > sqnr(expected, theirs) + 1


@pytest.fixture
def fake() -> TwoLayers:
    with skeleton():
        return TwoLayers().eval()


def activations(samples: int = 200) -> dict[str, Array]:
    return {"x": correlated(samples * 3, 8).view(samples, 3, 8).numpy()}


def test_later_layers_see_what_quantized_ones_make(
    fake: TwoLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layerwise, "CHUNK", 1000)  # several chunks an activation, the last one shorter
    real = tiny().source
    assert isinstance(real, TwoLayers)
    grids = {"up.weight": Grid(4, None), "down.weight": FOUR}
    made = calibrate(graph_of(Whole(fake)), weights_of(real), activations(), grids, tmp_path, Silent())
    x = real.norm(torch.from_numpy(activations()["x"])).reshape(-1, 8).detach()
    seen: dict[str, Tensor] = {"up.weight": x}
    up = torch.from_numpy(made["up.weight"].dequantized().numpy())
    seen["down.weight"] = torch.relu(x @ up.T + real.up.bias.detach())
    for name, rows in seen.items():
        weight = real.get_parameter(name).detach()
        expected = gptq(weight, 2 * rows.T @ rows / len(rows), grids[name]).dequantized()
        np.testing.assert_allclose(made[name].dequantized().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_layers_with_one_input_share_its_hessian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    original = layerwise._hessian

    def count(activation: Tensor) -> Tensor:
        counted.append(activation.shape[-1])
        return original(activation)

    monkeypatch.setattr(layerwise, "_hessian", count)
    graph, weights = decoder()
    calibrate(graph, weights, prompts(0), dict.fromkeys(linear(graph), FOUR), tmp_path, Silent())
    assert counted == [64, 64, 64, 128, 64, 64, 64, 128, 64]  # q k v, o, gate up, down; twice; and the head


class Twice(nn.Module):
    """Calls one layer two times, with what it changed in place in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        inner = x * 1
        made = self.first(inner)
        inner.mul_(torch.linspace(0.1, 5, 8))
        result: Tensor = self.second(inner) + self.first(made)
        return result


def test_a_layer_that_is_called_again_keeps_its_weight_and_changed_inputs_are_new(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = Twice()
    with skeleton():
        source = Twice()
    grids = dict.fromkeys(("first.weight", "second.weight"), Grid(4, None))
    made = calibrate(graph_of(Whole(source)), weights_of(real), activations(), grids, tmp_path, Silent())
    rows = torch.from_numpy(activations()["x"]).view(-1, 8)
    for name, seen in (("first.weight", rows), ("second.weight", rows * torch.linspace(0.1, 5, 8))):
        weight = real.get_parameter(name).detach()
        expected = gptq(weight, 2 * seen.T @ seen / len(seen), grids[name]).dequantized()
        np.testing.assert_allclose(made[name].dequantized().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_only_what_is_asked_for_is_quantized_and_progress_is_told(fake: TwoLayers, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    class Listener(Silent):
        def step(self, graph: str, done: int, total: int) -> None:
            told.append((graph, done, total))

    real = tiny().source
    grids = {"down.weight": FOUR}
    made = calibrate(graph_of(Whole(fake)), weights_of(real), activations(), grids, tmp_path, Listener())
    assert set(made) == {"down.weight"}
    assert told == [("tiny/whole", 1, 1)]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in fake.modules())


@pytest.mark.parametrize("name", ["norm.weight", "up.bias", "none.weight"])
def test_what_is_no_linear_weight_is_refused(fake: TwoLayers, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is not the weight of a linear layer"):
        calibrate(
            graph_of(Whole(fake)), weights_of(tiny().source), activations(), {name: FOUR}, tmp_path, Silent()
        )


class Idle(TwoLayers):
    """Has a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(32, 32)


def test_a_layer_that_does_not_run_is_refused(tmp_path: Path) -> None:
    real = Idle()
    with skeleton():
        source = Idle()
    with pytest.raises(UsageError, match=r"idle\.weight belongs to a layer that the graph does not run"):
        calibrate(
            graph_of(Whole(source)),
            weights_of(real),
            activations(),
            {"idle.weight": FOUR},
            tmp_path,
            Silent(),
        )


def test_samples_that_are_not_numbers_are_refused_with_the_layer(fake: TwoLayers, tmp_path: Path) -> None:
    inputs = {"x": np.full((1, 3, 8), np.nan, np.float32)}
    with pytest.raises(NumbersError, match="not positive definite") as caught:
        calibrate(
            graph_of(Whole(fake)),
            weights_of(tiny().source),
            inputs,
            {"down.weight": FOUR},
            tmp_path,
            Silent(),
        )
    assert caught.value.where == "down.weight"
