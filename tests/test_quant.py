"""Schemes and integer arithmetic: the promises that hold for all numbers."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m4c.errors import UsageError
from m4c.quant import (
    CALIBRATED,
    NARROW,
    RANGE,
    WIDE,
    PerChannel,
    PerTensor,
    bias_scales,
    dequantize,
    from_range,
    get_range,
    least_scales,
    quantize,
    quantize_bias,
    set_range,
    weight_codes,
    weight_scales,
)
from tests.integer_graphs import calibrated, graph

NUMBERS = st.floats(-1e6, 1e6, width=32)
WIDTHS = st.sampled_from([NARROW, WIDE])
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=3), elements=st.floats(-100, 100, width=32)
)


@given(NUMBERS, NUMBERS, WIDTHS)
def test_zero_is_exact_in_every_range(a: float, b: float, bits: int) -> None:
    kept = from_range(min(a, b), max(a, b), bits)
    assert dequantize(quantize(np.zeros(1, np.float32), kept), kept)[0] == 0


@given(NUMBERS, NUMBERS, st.floats(0, 1), WIDTHS)
def test_values_in_the_range_move_by_at_most_half_a_step(a: float, b: float, place: float, bits: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    kept = from_range(low, high, bits)
    value = np.array([low + place * (high - low)], np.float32)
    # Rounding the zero point moves the ends by up to half a step, where values saturate: one step there.
    inside = kept.range[0] <= value[0] <= kept.range[1]
    error = abs(float(dequantize(quantize(value, kept), kept)[0]) - float(value[0]))
    assert error <= (0.5 if inside else 1.0) * kept.scale * 1.001 + abs(float(value[0])) * 1e-6


@given(NUMBERS, NUMBERS, WIDTHS)
def test_codes_survive_a_round_trip(a: float, b: float, bits: int) -> None:
    kept = from_range(min(a, b), max(a, b), bits)
    codes = np.linspace(*kept.codes, 50).astype(kept.dtype.numpy())
    np.testing.assert_array_equal(quantize(dequantize(codes, kept), kept), codes)


def test_the_range_is_widened_to_hold_zero() -> None:
    assert from_range(2.0, 5.1).zero_point == -128
    assert from_range(2.0, 5.1).range == pytest.approx((0, 5.1), rel=1e-6)
    assert from_range(-5.1, -2.0).zero_point == 127


def test_a_scalar_constant_is_nearly_exact() -> None:
    kept = from_range(0.125, 0.125)
    assert dequantize(quantize(np.array([0.125]), kept), kept)[0] == pytest.approx(0.125, rel=1e-6)


def test_an_empty_range_has_scale_one_and_a_tiny_one_a_normal_scale() -> None:
    assert (from_range(0, 0).scale, from_range(0, 0).zero_point) == (1.0, 0)
    assert from_range(0, 1e-44).scale == float(np.finfo(np.float32).tiny)


@pytest.mark.parametrize("ends", [(1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_is_not_a_range_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not a range"):
        from_range(*ends)


def test_rounding_is_half_to_even_and_masks_saturate() -> None:
    kept = from_range(-128, 127)
    codes = quantize(np.array([0.5, 1.5, 2.5, -0.5, -np.inf, 900], np.float32), kept)
    np.testing.assert_array_equal(codes, [0, 2, 2, 0, -128, 127])


@given(MATRICES)
def test_weights_are_symmetric_narrow_and_within_half_a_step_for_each_channel(weight: np.ndarray) -> None:
    axis = PerChannel(weight.ndim - 1)
    scales = weight_scales(weight, axis)
    codes = weight_codes(weight, scales, axis)
    assert scales.shape == (weight.shape[-1],)
    assert codes.min() >= -127
    assert np.all(np.abs(codes * scales - weight) <= scales * 0.5001)


def test_channels_have_scales_of_their_own() -> None:
    weight = np.array([[127.0, 1.27], [0.0, -2.54]], np.float32)
    np.testing.assert_allclose(weight_scales(weight, PerChannel(1)), [1.0, 0.02], rtol=1e-6)
    np.testing.assert_allclose(weight_scales(weight, PerChannel(0)), [1.0, 0.02], rtol=1e-6)
    np.testing.assert_allclose(weight_scales(weight, PerTensor()), 1.0)
    np.testing.assert_array_equal(weight_scales(np.zeros((2, 3)), PerChannel(1)), [1, 1, 1])


def test_the_bias_of_a_dead_channel_fits() -> None:
    weight, bias = np.array([[1e-12, 1.0]], np.float32), np.array([4.0, -4.0], np.float32)
    with pytest.raises(ValueError, match="does not fit into int32"):
        quantize_bias(bias, bias_scales(0.1, weight_scales(weight, PerChannel(1))))
    scales = bias_scales(0.1, weight_scales(weight, PerChannel(1), least_scales(bias, 0.1)))
    codes = quantize_bias(bias, scales)
    assert codes.dtype == np.int32
    np.testing.assert_allclose(codes * scales, bias, rtol=1e-2)


def test_a_range_survives_cloning_and_bad_text_is_refused() -> None:
    model = calibrated(graph("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
    set_range(model.graph.outputs[0], -0.1, 1 / 3)
    copy = model.clone().graph.outputs[0]
    assert get_range(copy) == (-0.1, 1 / 3)
    copy.metadata_props[RANGE] = "wide"
    with pytest.raises(UsageError, match=r"'wide' is not a calibrated range"):
        get_range(copy)


def test_calibrated_names_what_lacks_a_range_or_a_type() -> None:
    model = graph("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert CALIBRATED.problems(model) == ["x has no range", "y has no range"]
    calibrated(model)
    assert CALIBRATED.problems(model) == []
    model.graph[0].outputs[0].type = None
    assert CALIBRATED.problems(model) == ["y has no type"]
    assert ir.DEBUG
