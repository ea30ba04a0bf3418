"""Whisper's features against transformers' own extractor."""

import time

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from m4c.errors import UsageError
from m4c.host.log_mel import log_mel

Array = np.ndarray


def speechlike(rng: np.random.Generator, seconds: float) -> Array:
    """Return noise whose loudness comes and goes over a few hundred hertz of tone."""
    at = np.arange(int(16000 * seconds)) / 16000
    tone = np.sin(2 * np.pi * 220 * at) + 0.3 * np.sin(2 * np.pi * 1760 * at)
    sound = 0.2 * (tone + 0.1 * rng.standard_normal(len(at))) * np.sin(2 * at) ** 2
    return np.asarray(sound, np.float32)


@pytest.mark.parametrize("seconds", [0.01, 3.7, 30.0, 34.0])
def test_equals_the_feature_extractor(seconds: float, rng: np.random.Generator) -> None:
    sound = speechlike(rng, seconds)
    extractor = WhisperFeatureExtractor()
    wanted = extractor._np_extract_fbank_features(
        np.pad(sound[:480000], (0, max(0, 480000 - len(sound))))[None], "cpu"
    )
    made = log_mel(sound)
    assert (made.shape, made.dtype) == ((1, 80, 3000), np.dtype("float32"))
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    np.testing.assert_allclose(made, extractor(sound, sampling_rate=16000)["input_features"], atol=1e-4)


def test_other_sizes(rng: np.random.Generator) -> None:
    sound = speechlike(rng, 1.0)
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    wanted = extractor._np_extract_fbank_features(np.pad(sound, (0, 16000))[None], "cpu")
    np.testing.assert_allclose(log_mel(sound, bins=16, frames=200), wanted, atol=1e-5)


def test_silence_is_level_and_no_sound_is_refused() -> None:
    assert np.ptp(log_mel(np.zeros(100))) == 0
    with pytest.raises(UsageError, match=r"shape \[0\]"):
        log_mel(np.zeros(0))


def test_thirty_seconds_take_less_than_a_second(rng: np.random.Generator) -> None:
    sound = speechlike(rng, 30.0)
    log_mel(sound)
    start = time.perf_counter()
    log_mel(sound)
    assert time.perf_counter() - start < 1  # about 0.03 s; generous, as machines are shared
