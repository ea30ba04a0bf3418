"""Kaldi's filterbank against transformers' spectrogram with Kaldi's options, and a definition by hand."""

import math

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram

from m4c.errors import UsageError
from m4c.host.fbank import FbankSettings, fbank, imagebind_audio

Array = np.ndarray


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def reference(samples: Array) -> Array:
    """Return (frames, 128) in the way of ``torchaudio.compliance.kaldi.fbank``."""
    filters = mel_filter_bank(
        257, 128, 20.0, 8000.0, 16000, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    made = spectrogram(
        samples,
        np.hanning(400),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        mel_floor=1.192092955078125e-07,
        log_mel="log",
        remove_dc_offset=True,
    )
    return np.asarray(made.T)


def by_hand(samples: Array, frame: int, bin_: int) -> float:
    """Return one value from Kaldi's definition, with plain loops and a plain Fourier sum."""
    cut = [float(s) for s in samples[frame * 160 : frame * 160 + 400]]
    level = sum(cut) / 400
    cut = [s - level for s in cut]
    cut = [s - 0.97 * (cut[i - 1] if i else cut[0]) for i, s in enumerate(cut)]
    cut = [s * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) for i, s in enumerate(cut)]

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    step = (mel(8000) - mel(20)) / 129
    left = mel(20) + bin_ * step
    total = 0.0
    for k in range(256):
        place = (mel(k * 16000 / 512) - left) / step
        weight = max(0.0, min(place, 2 - place))
        if weight:
            value = sum(s * np.exp(-2j * math.pi * k * i / 512) for i, s in enumerate(cut))
            total += weight * abs(value) ** 2
    return math.log(max(total, 2.0**-23))


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_equals_the_kaldi_options_of_transformers(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(8000) * 0.1 + 0.05
    made = fbank(samples, 16000, 128)
    assert made.shape == (1 + (8000 - 400) // 160, 128)
    np.testing.assert_allclose(made, reference(samples), atol=2e-5)


def test_equals_the_definition(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(1000) * 0.1 + 0.05
    made = fbank(samples, 16000, 128)
    for frame, bin_ in [(0, 5), (1, 60), (3, 127)]:
        assert made[frame, bin_] == pytest.approx(by_hand(samples, frame, bin_), abs=1e-6)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_three_clips_over_the_file(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(16000 * 5).astype(np.float32) * 0.1
    made = imagebind_audio(samples)
    assert (made.shape, made.dtype) == ((1, 3, 1, 128, 204), np.dtype("float32"))
    for index, start in enumerate((0.0, 1.5, 3.0)):
        clip = samples[int(start * 16000) : int((start + 2) * 16000)]
        wanted = (reference(clip - clip.mean()).T + 4.268) / 9.138
        np.testing.assert_allclose(made[0, index, 0, :, :198], wanted, atol=1e-4)
    np.testing.assert_allclose(made[..., 198:], 4.268 / 9.138, rtol=1e-6)  # zeros before the normalization


def test_a_short_sound_is_used_whole_and_a_narrow_input_cuts(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(8000)
    made = imagebind_audio(samples)
    np.testing.assert_array_equal(made[0, 0], made[0, 2])
    assert np.ptp(made[..., 48:]) == 0
    narrow = imagebind_audio(samples, FbankSettings(frames=10, bins=16, clips=1))
    assert narrow.shape == (1, 1, 1, 16, 10)


def test_too_short_a_sound_is_refused() -> None:
    with pytest.raises(UsageError, match="no window of 25 ms"):
        imagebind_audio(np.zeros(399))
    with pytest.raises(UsageError, match="empty"):
        imagebind_audio(np.zeros(0))
