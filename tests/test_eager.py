from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from m4c.eager import run_eager, run_variants, streamed
from m4c.errors import Bug, CheckpointError
from m4c.models.graph import Port, Submodel
from m4c.skeleton import skeleton
from m4c.weights import Array, lazy
from tests.two_layers import TwoLayers, Whole, graph_of, sample, tiny, weights_of


@pytest.fixture
def whole() -> Submodel:
    return tiny()


@pytest.fixture
def fake() -> TwoLayers:
    with skeleton():
        return TwoLayers().eval()


def is_fake(module: nn.Module) -> bool:
    return all(isinstance(p, FakeTensor) for p in module.parameters())


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_it_computes_what_torch_does(whole: Submodel, fake: TwoLayers, rng: np.random.Generator) -> None:
    inputs = sample(rng, {"batch": 2})
    found = run_eager(graph_of(Whole(fake)), weights_of(whole.source), inputs)
    with torch.no_grad():
        expected = whole.source(torch.from_numpy(inputs["x"]))
    np.testing.assert_array_equal(found["y"], expected.numpy())
    assert is_fake(fake)
    assert hooks(fake) == 0


def test_a_weight_is_in_memory_only_while_its_module_runs(
    whole: Submodel, fake: TwoLayers, rng: np.random.Generator
) -> None:
    seen: list[tuple[str, list[str]]] = []

    def look(module: nn.Module, _arguments: object, _result: object) -> None:
        real = [n for n, p in fake.named_parameters() if not isinstance(p, FakeTensor)]
        seen.append((type(module).__name__, real))

    with streamed(fake, weights_of(whole.source)), torch.no_grad():
        for module in fake.children():
            module.register_forward_hook(look, prepend=True)
        fake(torch.from_numpy(sample(rng, {"batch": 1})["x"]))
    assert seen == [
        ("LayerNorm", ["norm.weight", "norm.bias"]),
        ("Linear", ["up.weight", "up.bias"]),
        ("Linear", ["down.weight", "down.bias"]),
    ]


class Foreign(nn.Module):
    """Uses a weight of its child instead of calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.child.weight


def test_a_weight_used_outside_its_module_is_a_bug(rng: np.random.Generator) -> None:
    with skeleton():
        source = Foreign()
    with pytest.raises(Bug, match="used outside the module that owns it") as caught:
        run_eager(graph_of(Whole(source)), weights_of(Foreign()), sample(rng, {"batch": 1}))
    assert caught.value.where == "tiny/whole"
    assert hooks(source) == 0


def test_an_unreadable_weight_leaves_the_module_as_it_was(
    whole: Submodel, fake: TwoLayers, rng: np.random.Generator
) -> None:
    def read() -> Array:
        raise CheckpointError("up.bias holds values that are not numbers")

    weights = {**weights_of(whole.source), "up.bias": lazy("up.bias", ir.DataType.FLOAT, (160,), read)}
    with pytest.raises(CheckpointError):
        run_eager(graph_of(Whole(fake)), weights, sample(rng, {"batch": 1}))
    assert is_fake(fake)
    assert hooks(fake) == 0


class Twice(nn.Module):
    """Calls one child two times, and the second time within the first."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.child = nn.Linear(8, 8)

    def forward(self, x: Tensor, deep: bool = True) -> Tensor:
        inner: Tensor = self(x, False) if deep else self.child(self.child(x))
        return inner * self.scale


def test_a_module_may_call_itself(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    real = Twice()
    real.scale.data += 1
    with skeleton():
        source = Twice()
    inputs = sample(rng, {"batch": 1})
    found = run_eager(graph_of(Whole(source)), weights_of(real), inputs)["y"]
    with torch.no_grad():
        np.testing.assert_array_equal(found, real(torch.from_numpy(inputs["x"])).numpy())
    assert is_fake(source)


def test_contexts_may_be_nested(whole: Submodel, fake: TwoLayers, rng: np.random.Generator) -> None:
    def doubled(weights: Mapping[str, ir.TensorProtocol]) -> dict[str, ir.TensorProtocol]:
        other = tiny().source
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(2)
        assert set(weights) == set(other.state_dict())
        return weights_of(other)

    weights, x = weights_of(whole.source), torch.from_numpy(sample(rng, {"batch": 1})["x"])
    with torch.no_grad(), streamed(fake, weights):
        outer = fake(x)
        with streamed(fake, doubled(weights)):
            inner = fake(x)
        again = fake(x)
    assert is_fake(fake)
    assert hooks(fake) == 0
    torch.testing.assert_close(outer, again, rtol=0, atol=0)
    torch.testing.assert_close(outer, whole.source(x), rtol=0, atol=0)
    assert not torch.allclose(outer, inner)


class Tables(nn.Module):
    """An embedding, and linear layers with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.up = nn.Linear(8, 160, bias=False)
        self.down = nn.Linear(160, 8)

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.down(torch.relu(self.up(self.table(ids))))
        return made


def parts_of(source: nn.Module, read: list[tuple[str, slice]]) -> dict[str, ir.TensorProtocol]:
    """Return weights that cannot be read whole, with what was ``read``."""

    def divided(name: str, values: Array) -> ir.TensorProtocol:
        def whole() -> Array:
            raise AssertionError(name)

        def some(rows: slice) -> Array:
            read.append((name, rows))
            return values[rows]

        return lazy(name, ir.DataType.FLOAT, values.shape, whole, some)

    held = {name: value.numpy().copy() for name, value in source.state_dict().items()}
    return {name: divided(name, v) if v.ndim == 2 else lazy_of(name, v) for name, v in held.items()}


def lazy_of(name: str, values: Array) -> ir.TensorProtocol:
    return lazy(name, ir.DataType.FLOAT, values.shape, lambda: values)


@pytest.mark.parametrize("size", [1 << 20, 400])
def test_weights_in_parts_compute_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m4c.eager.PART", size)
    torch.manual_seed(0)
    real = Tables()
    with skeleton():
        source = Tables()
    read: list[tuple[str, slice]] = []
    ids = np.array([[3, 3, 29], [0, 7, 3]])
    outputs = (Port("y", "float32", (2, 3, 8), "any"),)
    graph = graph_of(Whole(source), (Port("ids", "int64", (2, 3), "any"),), outputs)
    found = run_eager(graph, parts_of(real, read), {"ids": ids})["y"]
    with torch.no_grad():
        np.testing.assert_allclose(found, real(torch.from_numpy(ids)).numpy(), rtol=1e-5, atol=1e-6)
    rows = [rows.start for name, rows in read if name == "table.weight"]
    assert rows == [0, 3, 7, 29]  # those that are named, once
    for name, outputs_ in (("up.weight", 160), ("down.weight", 8)):
        spans = sorted((r.start, r.stop) for n, r in read if n == name)
        assert (len(spans) > 1) == (size == 400)
        assert [i for start, stop in spans for i in range(start, stop)] == list(range(outputs_))
    assert is_fake(source)
    assert all("forward" not in vars(module) for module in source.modules())


class Doubling(nn.Linear):
    """Is a linear layer and something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_a_layer_that_is_more_than_linear_computes_as_it_does(rng: np.random.Generator) -> None:
    real = Doubling(8, 8)
    with skeleton():
        source = Doubling(8, 8)
    held = {n: v.numpy().copy() for n, v in real.state_dict().items()}
    weights = {
        n: lazy(n, ir.DataType.FLOAT, v.shape, lambda v=v: v, lambda rows, v=v: v[rows])  # type: ignore[misc]
        for n, v in held.items()
    }
    inputs = sample(rng, {"batch": 1})
    found = run_eager(graph_of(Whole(source)), weights, inputs)["y"]
    with torch.no_grad():
        np.testing.assert_array_equal(found, real(torch.from_numpy(inputs["x"])).numpy())


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.norm(x)
        return made


def test_persistent_buffers_come_from_the_checkpoint(rng: np.random.Generator) -> None:
    real = Normed().eval()
    assert real.norm.running_mean is not None
    real.norm.running_mean += 3
    with skeleton():
        source = Normed().eval()
    inputs = sample(rng, {"batch": 1})
    found = run_eager(graph_of(Whole(source)), weights_of(real), inputs)["y"]
    np.testing.assert_allclose(found, inputs["x"] - 3, rtol=1e-4, atol=1e-4)
    assert source.norm.running_mean is not None
    assert not source.norm.running_mean.any()


@pytest.mark.parametrize("changed", [["up.weight"], ["up.weight", "down.bias"], ["norm.weight"], []])
def test_variants_are_what_each_computes_alone(
    whole: Submodel, fake: TwoLayers, rng: np.random.Generator, changed: list[str]
) -> None:
    graph, weights, inputs = graph_of(Whole(fake)), weights_of(whole.source), sample(rng, {"batch": 2})
    reads: list[str] = []

    def noted(name: str, values: Array) -> ir.TensorProtocol:
        def part(rows: slice) -> Array:
            reads.append(name)
            return values[rows]

        return lazy(name, ir.DataType.FLOAT, values.shape, lambda: part(slice(None)), part)

    held = {name: noted(name, np.asarray(tensor.numpy())) for name, tensor in weights.items()}
    others = [
        {**held, **{name: noted(name, held[name].numpy() * factor) for name in changed}} for factor in (2, 3)
    ]
    variants = [held, *others]
    reads.clear()
    made = run_variants(graph, variants, inputs)
    together = "norm.weight" not in changed  # a norm is run for each alone, and all with it
    assert reads.count("down.weight") == (3 if "down.bias" in changed or not together else 1)
    for weights_, found in zip(variants, made, strict=True):
        alone = run_eager(graph, weights_, inputs)["y"]
        np.testing.assert_allclose(found["y"], alone, rtol=1e-5, atol=1e-6)
        assert found["y"].shape == alone.shape
    assert hooks(fake) == 0
    assert not any("forward" in vars(module) for module in fake.modules())
