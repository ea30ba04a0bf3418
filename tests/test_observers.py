"""Observers: ranges from streams of values."""

import numpy as np
import pytest

from m4c.observers import LeastError, MinMax, Observer, Percentile, watch
from m4c.quant import dequantize, from_range, quantize


def chosen(observer: Observer, *samples: np.ndarray) -> tuple[float, float]:
    seen = watch(observer)
    for sample in samples:
        seen.add(sample.astype(np.float32))
    return seen.range()


def test_min_max_is_over_all_samples() -> None:
    assert chosen(MinMax(), np.array([1.0, 2.0]), np.array([-3.0, 0.5])) == (-3.0, 2.0)
    assert chosen(MinMax(), np.array([])) == (0.0, 0.0)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
def test_a_percentile_cuts_both_ends(rng: np.random.Generator, scale: float) -> None:
    values = rng.normal(size=100_000).clip(-5, 5) * min(scale, 1000)
    low, high = chosen(Percentile(99), *np.split(values, 10))
    expected = np.percentile(values, [0.5, 99.5])
    np.testing.assert_allclose([low, high], expected, rtol=0.01)


def test_the_histogram_grows_with_later_samples(rng: np.random.Generator) -> None:
    small, large = rng.uniform(-1, 1, 50_000), rng.uniform(-30, 30, 50)
    both = np.concatenate([small, large])
    for percent in (99, 50):
        tail = (100 - percent) / 2
        expected = np.percentile(both, [tail, 100 - tail])
        np.testing.assert_allclose(chosen(Percentile(percent), small, large), expected, atol=0.03)


def test_least_error_clips_a_rare_outlier_and_has_a_smaller_error_than_min_max(
    rng: np.random.Generator,
) -> None:
    values = np.append(rng.normal(size=200_000), [25.0]).astype(np.float32)

    def error(observer: Observer) -> float:
        kept = from_range(*chosen(observer, values))
        return float(np.square(dequantize(quantize(values, kept), kept) - values).mean())

    assert chosen(LeastError(), values)[1] < 20
    assert error(LeastError()) < 0.8 * error(MinMax())


@pytest.mark.parametrize("observer", [MinMax(), Percentile(100), LeastError()])
def test_masks_do_not_count_but_stay_below_the_real_values(observer: Observer) -> None:
    low, high = chosen(observer, np.array([-np.inf, -1e9, 0.0, 1.0, 2.0]))
    assert -10.1 <= low <= -9.9
    assert high == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("observer", [Percentile(), LeastError()])
def test_all_zero_is_an_empty_range(observer: Observer) -> None:
    assert chosen(observer, np.zeros(5)) == (0.0, 0.0)


def test_observers_print_as_the_manifest_keeps_them() -> None:
    assert [str(o) for o in (MinMax(), Percentile(99.9), LeastError())] == [
        "min-max",
        "percentile-99.9",
        "least-error",
    ]
