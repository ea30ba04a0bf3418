"""Observers: ranges from streams of values, held against what is computed from all values at once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m4c.observers import (
    BINS,
    LEAST_BINS,
    NAMED,
    SHARES,
    Entropy,
    MeanSquaredError,
    MinMax,
    Observer,
    Percentile,
    Trimmed,
    Watch,
)
from m4c.options import Observer as Names
from m4c.quant import dequantize, from_range, quantize


def chosen(observer: Observer, *samples: np.ndarray) -> tuple[float, float]:
    seen = Watch(observer)
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


def test_only_what_stands_far_out_is_trimmed(rng: np.random.Generator) -> None:
    bulk = rng.uniform(0, 1, 100_000)
    for largest, expected in ((3.9, 3.9), (4.2, 1.0)):
        low, high = chosen(Trimmed(), bulk, np.array([largest]))
        assert low == pytest.approx(0, abs=0.01)
        assert high == pytest.approx(expected, rel=0.01)
    # a tensor far from 0 spans little, but its range as a scale reaches to 0
    assert chosen(Trimmed(), bulk / 100 + 5, np.array([5.2]))[1] == pytest.approx(5.2)


def test_the_histogram_grows_with_later_samples(rng: np.random.Generator) -> None:
    small, large = rng.uniform(-1, 1, 50_000), rng.uniform(-30, 30, 50)
    both = np.concatenate([small, large])
    for percent in (99, 50):
        tail = (100 - percent) / 2
        expected = np.percentile(both, [tail, 100 - tail])
        np.testing.assert_allclose(chosen(Percentile(percent), small, large), expected, atol=0.03)


def test_zeros_before_the_first_other_value_count() -> None:
    zeros, one = np.zeros(990), np.linspace(0.1, 1, 10)
    assert chosen(Percentile(98), zeros, one) == chosen(Percentile(98), one, zeros)
    assert chosen(Percentile(98), zeros, one)[1] < 0.2


def drawn(seed: int, spread: float, offset: float, outlier: float) -> np.ndarray:
    """Numbers that are normal but for a few, from a seed."""
    rng = np.random.default_rng(seed)
    values = rng.normal(offset, spread, 400)
    values[:2] = outlier, -outlier / 3
    return values.astype(np.float32)


NUMBERS = st.builds(
    drawn,
    st.integers(0, 1000),
    st.floats(0.05, 3.0),
    st.sampled_from([-2.0, 0.0, 0.5]),
    st.sampled_from([0.0, 5.0, 40.0]),
)


def rounding_and_cut(values: np.ndarray, low: float, high: float) -> float:
    """The error that the mean squared error observer states, a value at a time."""
    total = 0.0
    for x in values.tolist():
        nearest = min(max(x, low), high)
        total += (x - nearest) ** 2 if x != nearest else ((high - low) / 255) ** 2 / 12
    return total


@settings(deadline=None, max_examples=12)
@given(NUMBERS)
def test_mean_squared_error_finds_the_best_of_all_pairs_of_ends(values: np.ndarray) -> None:
    least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    best = min(
        rounding_and_cut(values, least * a, most * b) for a in SHARES[::6] for b in SHARES[::6]
    )  # a coarser grid: what it finds, the finer one must find too, up to the width of a bin
    found = rounding_and_cut(values, *chosen(MeanSquaredError(), values))
    bin_width = 2 * max(-least, most) / BINS
    assert found <= best * 1.01 + values.size * bin_width**2


@settings(deadline=None, max_examples=20)
@given(NUMBERS)
def test_mean_squared_error_is_never_much_worse_than_the_extremes(values: np.ndarray) -> None:
    def error(observer: Observer) -> float:
        kept = from_range(*chosen(observer, values))
        return float(np.square(dequantize(quantize(values, kept), kept) - values).sum())

    assert error(MeanSquaredError()) <= 1.15 * error(MinMax())


def test_mean_squared_error_gives_up_a_rare_outlier(rng: np.random.Generator) -> None:
    values = np.append(rng.normal(size=200_000), [40.0]).astype(np.float32)
    assert 3 < chosen(MeanSquaredError(), values)[1] < 36
    assert chosen(MinMax(), values)[1] == 40


def divergence(counts: dict[int, int], low: int, high: int, width: float) -> float:
    """KL(P ‖ Q) by its definition, over the bins from ``low`` to ``high``, a bin at a time."""
    kept = from_range(low * width, (high + 1) * width)
    p = {b: counts.get(b, 0) for b in range(low, high + 1)}
    inside = dict(p)
    for b, count in counts.items():
        if not low <= b <= high:
            p[min(max(b, low), high)] += count
    codes: dict[int, list[int]] = {}
    for b, count in inside.items():
        if count:
            codes.setdefault(int(quantize(np.array((b + 0.5) * width), kept)), []).append(b)
    q = {b: sum(inside[o] for o in others) / len(others) for others in codes.values() for b in others}
    total, within = sum(p.values()), sum(inside.values())
    if any(count and not q.get(b) for b, count in p.items()):
        return math.inf
    return sum(c / total * math.log((c / total) / (q[b] / within)) for b, c in p.items() if c)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 100), st.sampled_from([1.0, 4.0]))
def test_entropy_finds_the_least_divergence_of_all_thresholds(seed: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    half, width = BINS // 2, 2.0**-11
    bins = np.clip(np.rint(rng.standard_t(tail + 1, 3000) * 90), -half, half - 1).astype(int)
    bins[0] = half - 1
    values = np.append(
        (bins + 0.5) * width, [-1.0]
    )  # the limit is 1: bins are those that the values were drawn in
    counts = dict(zip(*(a.tolist() for a in np.unique([*bins, -half], return_counts=True)), strict=True))
    top = values.max()

    def at(threshold: int) -> float:
        return divergence(counts, -threshold, min(threshold, half) - 1, width)

    thresholds = range(half, LEAST_BINS - 1, -LEAST_BINS // 8)
    best = min(thresholds, key=at)
    found = chosen(Entropy(), values)
    assert found == pytest.approx((-best * width, min(best * width, top)), abs=width)


@pytest.mark.parametrize("observer", [MinMax(), Percentile(100), MeanSquaredError(), Entropy()])
def test_masks_do_not_count_but_stay_below_the_real_values(observer: Observer) -> None:
    low, high = chosen(observer, np.array([-np.inf, -1e9, 0.0, 1.0, 2.0]))
    assert -10.1 <= low <= -9.9
    assert high == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("observer", NAMED.values())
def test_all_zero_is_an_empty_range(observer: Observer) -> None:
    assert chosen(observer, np.zeros(5)) == (0.0, 0.0)


@pytest.mark.parametrize("observer", NAMED.values())
def test_what_is_kept_does_not_grow_and_equal_values_give_equal_ranges(
    rng: np.random.Generator, observer: Observer
) -> None:
    samples = [np.append(rng.normal(size=999), 8.0).astype(np.float32) for _ in range(8)]
    seen = Watch(observer)
    for sample in samples:
        seen.add(sample)
    assert seen.counts.size == BINS
    assert chosen(observer, *reversed(samples)) == seen.range() == chosen(observer, np.concatenate(samples))


def test_observers_print_as_the_manifest_keeps_them() -> None:
    assert [str(o) for o in NAMED.values()] == [
        "min-max",
        "percentile-99.98",
        "trimmed-99.98-beyond-4",
        "mse",
        "entropy",
    ]
    assert str(Percentile(99.9)) == "percentile-99.9"


def test_the_command_line_knows_every_observer() -> None:
    assert [name.value for name in Names] == list(NAMED)


def test_few_values_leave_room_for_others(rng: np.random.Generator) -> None:
    seen = Watch(MinMax())
    seen.add(rng.normal(3, 1, 100).astype(np.float32))
    low, high = seen.range()
    assert 0 < low < high
    assert seen.range(enough=100) == (low, high)
    wider = seen.range(enough=10_000)  # the logarithm of 10000 is twice that of 100
    assert wider == pytest.approx((low, high + (high - low) / 2 * (math.sqrt(2) - 1)))
    seen.add(np.array([-1], np.float32))
    low, high = seen.range(10_000)
    assert low < -1
    assert -1 - low == pytest.approx(high - seen.high)


def test_what_never_changes_keeps_its_value() -> None:
    seen = Watch(MinMax())
    seen.add(np.full(3, 2.5, np.float32))
    assert seen.range(10_000) == (2.5, 2.5)


def test_room_for_others_makes_small_samples_serve_many(rng: np.random.Generator) -> None:
    values = rng.normal(size=(50, 20_000)).astype(np.float32)
    lost = []
    for enough in (0, 10_000):
        errors = []
        for row in values:
            seen = Watch(MinMax())
            seen.add(row[:32])
            scale = from_range(*seen.range(enough))
            errors.append(np.mean(np.square(row - dequantize(quantize(row, scale), scale))))
        lost.append(np.mean(errors))
    assert lost[1] < lost[0] / 10
