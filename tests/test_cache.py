"""Caches as they are stored: what rounding costs at most, and what a comparison may put down to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from m4c.cache import beyond_rounding, pairs, real, scale_of, stored, without_scales
from m4c.models.graph import Port
from m4c.weights import Array

CACHES = arrays.arrays(np.float32, (1, 2, 3, 4), elements=st.floats(-1000, 1000, width=32))


def kept(values: Array, kind: str) -> Array:
    return real(stored({"past_a": values}, ["past_a"], kind))["past_a"]


@given(CACHES)
@settings(deadline=None)
def test_int8_is_half_a_step_away_at_most_and_stays(values: Array) -> None:
    made = stored({"past_a": values}, ["past_a"], "int8")
    assert (made["past_a"].dtype, made["past_a_scale"].dtype) == (np.dtype(np.int8), np.dtype(np.float32))
    assert made["past_a_scale"].shape == (1, 2, 3, 1)
    step = np.abs(values).max(axis=-1, keepdims=True) / 127
    found = kept(values, "int8")
    assert (np.abs(found - values) <= step * 0.5001 + 1e-30).all()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(stored({"past_a": found}, ["past_a"], "int8")["past_a"], made["past_a"])
    assert np.abs(beyond_rounding(values, found, "int8") - values).max() <= step.max() * 1e-3


@given(CACHES)
@settings(deadline=None)
def test_float16_is_what_numpy_makes_of_it(values: Array) -> None:
    np.testing.assert_array_equal(kept(values, "float16"), values.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(kept(values, "float32"), values)


def test_more_than_rounding_is_seen(rng: np.random.Generator) -> None:
    values = rng.standard_normal((1, 1, 2, 64)).astype(np.float32)
    cut = stored({"past_a": values}, ["past_a"], "int8")
    cut["past_a"] = np.trunc(values / cut["past_a_scale"]).astype(np.int8)
    assert np.abs(beyond_rounding(values, real(cut)["past_a"], "int8") - values).max() > 5e-3
    assert np.abs(beyond_rounding(values, values + 1, "float16") - values).min() > 0.9


def test_other_values_are_left_alone() -> None:
    values = {"past_a": np.ones((1, 1, 1, 2), np.float32), "mask": np.array([0.1, -1e9], np.float32)}
    made = stored(values, ["past_a"], "int8")
    assert list(made) == ["past_a", "past_a_scale", "mask"]
    assert real(made)["mask"] is values["mask"]
    assert without_scales(made) == list(values)


def test_pasts_and_presents_go_together() -> None:
    def ports(*names: str) -> list[Port]:
        return [Port(name, "float32", (1,), "any") for name in names]

    inputs = ports("embeds", "past_key_0", scale_of("past_key_0"), "past_value_0")
    outputs = ports("logits", "present_key_0", scale_of("present_key_0"), "present_value_0")
    assert [(a.name, b.name) for a, b in pairs(inputs, outputs)] == [
        ("past_key_0", "present_key_0"),
        ("past_key_0_scale", "present_key_0_scale"),
        ("past_value_0", "present_value_0"),
    ]
    with pytest.raises(ValueError, match="shorter"):
        pairs(inputs, outputs[:-1])
