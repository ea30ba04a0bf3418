import hashlib
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m4c.checkpoints.random import SPREAD, random_weights
from m4c.models import build
from m4c.skeleton import skeleton
from m4c.weights import Array, array, divisible, part

GOLDEN = {
    "0.weight": "6c0c2fa8262fbeff420db332ea40c469502a5ec2d6a41a50646a124e6a7dd7a3",
    "0.bias": "967251d6cae505233ec402fd82bc1538365db1c62e62e8bcbac1e1dab4764e87",
    "1.weight": "3f8215a37520967c5369d09824e54cb8ca61b69ebfc6ae47dcaeb128cd0c2071",
    "2.weight": "8754732a2ac118955167916d0ca399d599fc0396e5387119cd4076bddb43b7dd",
}
"""SHA-256 of little-endian bytes, seed 7: every machine gives these. A change of them changes every bundle."""


class Net(nn.Sequential):
    """A linear layer, a norm, an embedding; and a buffer of a value of its own."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__(nn.Linear(1001, 1500), nn.LayerNorm(7), nn.Embedding(50, 8))
        self.register_buffer("table", torch.arange(3.0))


def read(seed: int) -> dict[str, Array]:
    with skeleton():
        source = Net()
    return {name: array(tensor) for name, tensor in random_weights(source, seed).items()}


def test_every_machine_gives_these_bytes() -> None:
    found = read(7)
    hashes = {n: hashlib.sha256(found[n].astype("<f4").tobytes()).hexdigest() for n in GOLDEN}
    assert hashes == GOLDEN


def test_other_seeds_and_names_give_other_values() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    first, other = (random_weights(Two(), seed) for seed in (0, 1))
    seen = {array(weights[f"{name}.weight"]).tobytes() for weights in (first, other) for name in "ab"}
    assert len(seen) == 4


def test_neither_order_nor_threads_matter() -> None:
    with skeleton():
        weights = random_weights(Net(), 7)
    names = list(weights)[::-1] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: array(weights[name]), names))
    expected = read(7)
    for name, values in zip(names, found, strict=True):
        np.testing.assert_array_equal(values, expected[name])


def test_the_pieces_join() -> None:
    """The matrix has more values than are drawn at once, and an odd number of columns."""
    width = np.sqrt(3 / 1001)
    values = read(7)["0.weight"].ravel()
    assert len(np.unique(values)) > 0.9 * len(values)
    assert np.abs(values).max() <= width
    for half in np.array_split(values, 2):
        assert abs(half.mean()) < 4 * width / np.sqrt(3 * half.size)
        assert half.std() == pytest.approx(width / np.sqrt(3), rel=0.01)


def test_a_matrix_keeps_the_variance_of_what_passes_through(rng: np.random.Generator) -> None:
    x = rng.standard_normal((64, 1001)).astype(np.float32)
    assert (x @ read(0)["0.weight"].T).var() == pytest.approx(1, abs=0.02)


def test_norms_lie_around_one_and_the_rest_is_small() -> None:
    found = read(0)
    assert np.abs(found["1.weight"] - 1).max() <= SPREAD * 1.001
    for name in ("0.bias", "1.bias", "2.weight"):
        assert 0 < np.abs(found[name]).max() <= SPREAD
    assert found["table"].tolist() == [0, 1, 2]


def test_a_token_is_as_large_as_its_neighbours() -> None:
    with skeleton():
        source = build("img_enc", "m4-nano").source
    weights = random_weights(source, 0)
    token = array(weights["modality_preprocessors.vision.cls_token"])
    assert token.std() == pytest.approx(1, abs=0.2)


def test_names_and_shapes_are_those_of_the_state_dict() -> None:
    with skeleton():
        source = build("aud_i_enc", "m4-nano").source
    state = source.state_dict()
    weights = random_weights(source, 0)
    assert {n: tuple(t.shape) for n, t in weights.items()} == {n: tuple(t.shape) for n, t in state.items()}


def test_a_tied_weight_has_one_value() -> None:
    with skeleton():
        source = build("aud_i_enc", "m4-nano").source
    weights = random_weights(source, 0)
    embedding, head = (weights[n] for n in ("model.decoder.embed_tokens.weight", "proj_out.weight"))
    np.testing.assert_array_equal(array(embedding), array(head))
    assert np.abs(array(head)).max() <= SPREAD


def test_scalars_and_empty_tensors() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scalar = nn.Parameter(torch.tensor(0.0))
            self.empty = nn.Parameter(torch.zeros(0, 3))

    weights = random_weights(Odd(), 0)
    assert array(weights["scalar"]).shape == ()
    assert array(weights["empty"]).shape == (0, 3)


def test_a_weight_is_made_in_little_more_than_its_own_memory() -> None:
    with skeleton():
        tensor = random_weights(nn.Linear(4096, 4096), 0)["weight"]
    tracemalloc.start()
    try:
        size = array(tensor).nbytes
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(48, 30), lambda: nn.Embedding(30, 8), lambda: nn.Conv1d(4, 30, 6)]
)
def test_parts_are_those_of_the_whole(make: Callable[[], nn.Module]) -> None:
    tensor = random_weights(make(), 3)["weight"]
    values = array(tensor)
    assert divisible(tensor)
    for rows in (slice(0, 30), slice(0, 1), slice(29, 30), slice(7, 19)):
        np.testing.assert_array_equal(part(tensor, rows), values[rows])


def test_rows_that_begin_within_a_step_are_not_read_alone() -> None:
    tensor = random_weights(nn.Linear(12, 30), 3)["weight"]
    assert not divisible(tensor)
    np.testing.assert_array_equal(part(tensor, slice(5, 9)), array(tensor)[5:9])


def test_parts_of_what_is_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = random_weights(nn.Linear(48, 30), 3)["weight"]
    expected = array(tensor).copy()
    monkeypatch.setattr("m4c.checkpoints.random.PIECE", 100)
    np.testing.assert_array_equal(array(tensor), expected)
    np.testing.assert_array_equal(part(tensor, slice(7, 19)), expected[7:19])
