"""Resampling against sines, whose samples at any rate are known."""

import numpy as np
import pytest

from m4c.errors import UsageError
from m4c.host.resample import resample

Array = np.ndarray


def sine(hertz: float, rate: int, seconds: float = 1.0) -> Array:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("start", "goal"), [(22050, 16000), (44100, 16000), (48000, 16000), (8000, 16000), (16000, 22050)]
)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.89])
def test_a_sine_below_the_lower_nyquist_frequency_stays_itself(start: int, goal: int, share: float) -> None:
    hertz = share * min(start, goal) / 2
    made = resample(sine(hertz, start), start, goal)
    assert (len(made), made.dtype) == (goal, np.dtype("float32"))
    inner = slice(goal // 10, -goal // 10)  # away from the silence around
    np.testing.assert_allclose(made[inner], sine(hertz, goal)[inner], atol=3e-4)


@pytest.mark.parametrize("start", [22050, 44100, 48000])
def test_what_would_alias_is_gone(start: int) -> None:
    made = resample(sine(8100, start), start, 16000)
    assert np.abs(made[1600:-1600]).max() < 2e-4  # 74 dB


def test_rates_with_no_common_ratio_and_sounds_of_one_sample() -> None:
    made = resample(sine(100, 1999, 0.5), 1999, 1600)
    assert len(made) == int(np.ceil(999 * 1600 / 1999))
    np.testing.assert_allclose(made[200:-200], sine(100, 1600)[200 : len(made) - 200], atol=3e-4)
    assert len(resample(np.ones(1), 44100, 16000)) == 1
    assert len(resample(np.ones(0), 44100, 16000)) == 0


def test_equal_rates_change_nothing_and_wrong_ones_are_refused(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(100).astype(np.float32)
    np.testing.assert_array_equal(resample(samples, 16000, 16000), samples)
    with pytest.raises(UsageError, match="from 0 Hz"):
        resample(samples, 0, 16000)
    with pytest.raises(UsageError, match=r"shape \[2, 50\]"):
        resample(samples.reshape(2, 50), 8000, 16000)
