from pathlib import Path

import numpy as np
import pytest

from m4c.capture import bind
from m4c.errors import NumbersError
from m4c.passes import before_ranges
from m4c.source import TorchSource
from m4c.unrounded import check_unrounded
from m4c.weights import Array, array
from tests.test_verify import good, unbound, with_weight
from tests.two_layers import stored, tiny, weights_of


def check(compiled: TorchSource, source: TorchSource, folder: Path) -> None:
    captured = unbound().clone()
    bind(captured, compiled.weights)
    model, _ = before_ranges("int8", "tflite").run(captured)
    check_unrounded(source, model, source.sample(0), folder)
    assert not list(folder.iterdir())


def true(name: str) -> Array:
    return array(weights_of(tiny().source)[name])


def test_what_passes_make_for_integers_is_close_enough(tmp_path: Path) -> None:
    check(good(), good(), tmp_path)


@pytest.mark.parametrize(
    ("weight", "first"), [("norm.weight", " of up: "), ("up.weight", " of up: "), ("down.bias", " of down: ")]
)
def test_a_wrong_layer_is_named(weight: str, first: str, tmp_path: Path) -> None:
    values = true(weight)
    noise = np.random.default_rng(0).standard_normal(values.shape).astype(np.float32)
    wrong = with_weight(weight, values + np.float32(0.3) * noise)
    with pytest.raises(NumbersError, match="differs from its source before it is rounded") as caught:
        check(wrong, good(), tmp_path)
    assert first in caught.value.where
    assert "allowed is SQNR of at least 25 dB" in caught.value.what


def test_an_output_of_zeros_has_no_ratio(tmp_path: Path) -> None:
    nothing = {name: stored(name, np.zeros_like(true(name))) for name in ("down.weight", "down.bias")}
    almost = stored("down.bias", np.full_like(true("down.bias"), 1e-6))
    weights = {**weights_of(tiny().source), **nothing}
    check(good({**weights, "down.bias": almost}), good(weights), tmp_path)
