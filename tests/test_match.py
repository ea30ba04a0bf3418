import re
from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from torch import nn

from m4c.errors import CheckpointError
from m4c.match import _as, match
from m4c.models.graph import Submodel
from m4c.weights import Array, array, divisible, lazy, part
from tests.two_layers import stored, tiny, weights_of


@pytest.fixture
def submodel() -> Submodel:
    return tiny()


@pytest.fixture
def weights(submodel: Submodel) -> dict[str, ir.TensorProtocol]:
    return weights_of(submodel.source)


def refusal(submodel: Submodel, weights: Mapping[str, ir.TensorProtocol]) -> str:
    with pytest.raises(CheckpointError) as caught:
        match(submodel, weights)
    assert caught.value.where == "tiny"
    assert "--weights and --preset" in caught.value.fix
    return caught.value.what


def test_every_weight_finds_its_tensor(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    found = match(submodel, weights)
    state = submodel.source.state_dict()
    assert set(found) == set(state)
    for name, tensor in found.items():
        np.testing.assert_array_equal(array(tensor), state[name].numpy())


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_floats_become_the_models_own(kind: type, submodel: Submodel) -> None:
    state = {n: np.asarray(v.numpy().astype(kind)) for n, v in submodel.source.state_dict().items()}
    found = match(submodel, {n: stored(n, v) for n, v in state.items()})
    for name, values in state.items():
        assert found[name].dtype == ir.DataType.FLOAT
        np.testing.assert_array_equal(array(found[name]), values.astype(np.float32))


def test_nothing_is_read(submodel: Submodel) -> None:
    def read() -> Array:
        raise AssertionError

    state = submodel.source.state_dict()
    match(submodel, {n: lazy(n, ir.DataType.FLOAT, t.shape, read) for n, t in state.items()})


def test_missing(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    del weights["up.bias"]
    assert refusal(submodel, weights) == "1 tensor missing from the checkpoint:\n    up.bias"
    assert refusal(submodel, {}).splitlines() == [
        "6 tensors missing from the checkpoint:",
        *(f"    {name}" for name in ("down.bias", "down.weight", "norm.bias", "norm.weight", "up.bias")),
        "    and 1 more",
    ]


def test_extra(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    extra = {f"other.{i}": weights["up.bias"] for i in range(7)}
    what = refusal(submodel, {**weights, **extra})
    assert what.startswith("7 tensors of the checkpoint without a place in the model:\n    other.0\n")
    assert what.endswith("other.4\n    and 2 more")
    match(replace(submodel, ignored=r"other\.\d"), {**weights, **extra})
    with pytest.raises(CheckpointError, match=re.escape("other.1")):
        match(replace(submodel, ignored=r"other\.[^1]"), {**weights, **extra})
    with pytest.raises(CheckpointError):  # an expression that fits the beginning only
        match(replace(submodel, ignored="other"), {**weights, **extra})


def test_wrong_shape(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    weights["up.weight"] = stored("up.weight", np.zeros((8, 160), np.float32))
    weights["up.bias"] = stored("up.bias", np.zeros((1, 160), np.float32))
    assert refusal(submodel, weights) == (
        "2 tensors of another shape:\n"
        "    up.bias: [1, 160] in the checkpoint, [160] in the model\n"
        "    up.weight: [8, 160] in the checkpoint, [160, 8] in the model"
    )


def test_dtypes_that_do_not_convert(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    for name in ("up.weight", "down.weight"):
        weights[name] = stored(name, np.zeros(weights[name].shape.numpy(), np.int8))
    assert refusal(submodel, weights) == (
        "2 tensors of a dtype that does not convert:\n"
        "    down.weight: INT8 in the checkpoint, FLOAT in the model\n"
        "    up.weight: INT8 in the checkpoint, FLOAT in the model"
    )


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_nan_is_found_when_it_is_read(
    kind: type, submodel: Submodel, weights: dict[str, ir.TensorProtocol]
) -> None:
    weights["up.bias"] = stored("up.bias", np.asarray(np.full(160, np.nan).astype(kind)))
    found = match(submodel, weights)
    array(found["up.weight"])
    with pytest.raises(CheckpointError, match=r"up\.bias holds values that are not numbers"):
        array(found["up.bias"])


def test_renames_apply_in_order(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    renamed = {f"module.{n.replace('up', 'fc1')}": t for n, t in weights.items()}
    found = match(replace(submodel, renames=((r"^module\.", ""), (r"^fc1\.", "up."))), renamed)
    assert set(found) == set(weights)
    np.testing.assert_array_equal(array(found["up.weight"]), array(weights["up.weight"]))


def test_two_tensors_for_one_place(submodel: Submodel, weights: dict[str, ir.TensorProtocol]) -> None:
    twice = replace(submodel, renames=((r"^module\.", ""),))
    what = refusal(twice, {**weights, "module.up.bias": weights["up.bias"]})
    assert what == (
        "1 tensor of the checkpoint with a place that another has taken:\n    module.up.bias is up.bias"
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


TIED = Submodel("tiny", Tied(), (), licence="", tied={"head.weight": "embed.weight"})


@pytest.mark.parametrize("key", ["head.weight", "embed.weight"])
def test_a_tied_weight_by_either_name(key: str, rng: np.random.Generator) -> None:
    values = rng.standard_normal((10, 4)).astype(np.float32)
    found = match(TIED, {key: stored(key, values)})
    for name in ("head.weight", "embed.weight"):
        np.testing.assert_array_equal(array(found[name]), values)


def test_a_tied_weight_by_neither_name() -> None:
    assert "head.weight" in refusal(TIED, {})


def test_a_tied_weight_by_both_names(rng: np.random.Generator) -> None:
    values = rng.standard_normal((10, 4)).astype(np.float32)
    both = {name: stored(name, values.copy()) for name in ("head.weight", "embed.weight")}
    found = match(TIED, both)
    np.testing.assert_array_equal(array(found["head.weight"]), values)
    both["head.weight"] = stored("head.weight", values + np.float32(1e-6))
    found = match(TIED, both)
    for name in both:
        with pytest.raises(
            CheckpointError, match=r"embed\.weight and head\.weight differ, but are one weight"
        ):
            array(found[name])
    both["head.weight"] = stored("head.weight", values[:9])
    assert "head.weight: [9, 4] in the checkpoint" in refusal(TIED, both)


def test_counters_of_training_may_be_missing() -> None:
    norm = Submodel("tiny", nn.Sequential(nn.BatchNorm1d(3)), (), licence="")
    weights = weights_of(norm.source)
    del weights["0.num_batches_tracked"]
    assert set(match(norm, weights)) == set(weights)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mapped", [True, False])
def test_every_half_becomes_the_same_float(kind: type, mapped: bool) -> None:
    """All 65536 of them but those that are not numbers, written to or not, in any order in memory."""
    every: Array = np.arange(1 << 16, dtype=np.uint16).view(kind)
    every = every[~np.isnan(every.astype(np.float32))]
    for values in (every, every[::2], every[: len(every) // 8 * 8].reshape(-1, 8).T):
        held = values.copy(order="K")
        held.flags.writeable = not mapped
        found = _as(held, np.dtype(np.float32))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, held.astype(np.float32))


def test_other_dtypes_are_left_or_converted() -> None:
    integers = np.array([-3, 4], np.int16)
    assert _as(integers, np.dtype(np.float32)).tolist() == [-3, 4]
    floats = np.array([1.5, 2], np.float32)
    assert _as(floats, np.dtype(np.float32)) is floats
    assert _as(floats, np.dtype(np.float16)).dtype == np.float16


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_parts_are_converted_and_looked_at_alone(
    kind: type, submodel: Submodel, weights: dict[str, ir.TensorProtocol]
) -> None:
    values: Array = np.arange(1280).reshape(160, 8).astype(kind)
    values[100, 3] = np.nan

    def whole() -> Array:
        raise AssertionError

    dtype = ir.DataType.from_numpy(values.dtype)
    weights["up.weight"] = lazy("up.weight", dtype, (160, 8), whole, lambda rows: values[rows])
    found = match(submodel, weights)
    assert divisible(found["up.weight"])
    assert not divisible(found["down.weight"])
    rows = part(found["up.weight"], slice(90, 100))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, values[90:100].astype(np.float32))
    with pytest.raises(CheckpointError, match=r"up\.weight holds values that are not numbers"):
        part(found["up.weight"], slice(100, 101))


def test_what_is_known_of_a_weight_stays_known(
    submodel: Submodel, weights: dict[str, ir.TensorProtocol]
) -> None:
    known = object()
    values = np.zeros((160, 8), np.float16)
    weights["up.weight"] = lazy("other", ir.DataType.FLOAT16, (160, 8), lambda: values, origin=known)
    assert getattr(match(submodel, weights)["up.weight"], "origin", None) is known
