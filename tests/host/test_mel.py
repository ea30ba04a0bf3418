"""Mel filters against those of transformers."""

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, window_function

from m4c.host import mel


@pytest.mark.parametrize(
    ("bins", "fft", "rate", "low", "high"), [(80, 400, 16000, 0, 8000), (80, 1024, 22050, 20, 8000)]
)
def test_slaney_filters(bins: int, fft: int, rate: int, low: float, high: float) -> None:
    wanted = mel_filter_bank(fft // 2 + 1, bins, low, high, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel.slaney(bins, fft, rate, low, high), wanted.T, atol=1e-9)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_kaldi_filters() -> None:
    wanted = mel_filter_bank(
        257, 128, 20.0, 8000.0, 16000, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    np.testing.assert_allclose(mel.kaldi(128, 512, 16000, 20.0, 8000.0), wanted.T, atol=1e-9)


def test_filters_are_shared_and_protected() -> None:
    assert mel.slaney(80, 400, 16000, 0.0, 8000.0) is mel.slaney(80, 400, 16000, 0.0, 8000.0)
    with pytest.raises(ValueError, match="read-only"):
        mel.slaney(80, 400, 16000, 0.0, 8000.0)[0, 0] = 1


def test_windows_and_frames() -> None:
    np.testing.assert_allclose(mel.hann(400, periodic=True), window_function(400, "hann"), atol=1e-12)
    np.testing.assert_allclose(mel.hann(400, periodic=False), np.hanning(400), atol=1e-12)
    np.testing.assert_array_equal(mel.frames(np.arange(7), 3, 2), [[0, 1, 2], [2, 3, 4], [4, 5, 6]])
