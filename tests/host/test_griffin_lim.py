"""Griffin-Lim: what comes back sounds, by its spectrogram, like what went in."""

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from m4c.errors import BundleError, UsageError
from m4c.host.griffin_lim import MelSettings, griffin_lim, log_mel_magnitude

Array = np.ndarray
RATE = 22050


def chirp(seconds: float) -> Array:
    at = np.arange(int(RATE * seconds)) / RATE
    tones = sum(
        np.sin(2 * np.pi * h * (at + 0.2 * at**2)) / n for n, h in enumerate((200, 400, 800, 1600), 1)
    )
    return np.asarray(0.2 * tones * (1 + np.sin(2 * np.pi * 3 * at)) / 2)


def test_the_mel_spectrogram_is_that_of_transformers() -> None:
    form, sound = MelSettings(), chirp(0.5)
    wanted = spectrogram(
        sound,
        window_function(1024, "hann"),
        frame_length=1024,
        hop_length=256,
        power=1.0,
        mel_filters=mel_filter_bank(513, 80, 20.0, 8000.0, RATE, norm="slaney", mel_scale="slaney"),
        mel_floor=1e-5,
        log_mel="log",
    )
    np.testing.assert_allclose(log_mel_magnitude(sound, form), wanted.T, atol=1e-4)


def test_the_mel_spectrogram_survives_the_round_trip() -> None:
    wanted = log_mel_magnitude(chirp(1.0))
    back = griffin_lim(wanted)
    assert (back.dtype, len(back)) == (np.dtype("float32"), (len(wanted) - 1) * 256)
    got, want = np.exp(log_mel_magnitude(back)), np.exp(wanted)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < 0.15


@pytest.mark.parametrize("hertz", [220.0, 440.0, 1000.0, 3000.0])
def test_a_tone_comes_back_at_its_frequency_and_loudness(hertz: float) -> None:
    at = np.arange(RATE) / RATE
    back = griffin_lim(log_mel_magnitude(0.5 * np.sin(2 * np.pi * hertz * at)))
    inner = back[2048:-2048]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert np.argmax(spectrum) * RATE / len(inner) == pytest.approx(hertz, abs=max(RATE / 1024, 0.02 * hertz))
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.3)


def test_more_iterations_are_no_worse_and_equal_inputs_give_equal_sounds() -> None:
    wanted = log_mel_magnitude(chirp(0.5))

    def error(iterations: int) -> float:
        got = np.exp(log_mel_magnitude(griffin_lim(wanted, iterations=iterations)))
        return float(np.linalg.norm(got - np.exp(wanted)))

    assert error(40) < 0.6 * error(1)
    np.testing.assert_array_equal(griffin_lim(wanted, iterations=2), griffin_lim(wanted, iterations=2))


@pytest.mark.parametrize("shape", [(80,), (10, 79), (1, 80)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="not a spectrogram"):
        griffin_lim(np.zeros(shape))
    with pytest.raises(UsageError, match="finite"):
        griffin_lim(np.full((10, 80), np.inf))


def test_settings_come_from_the_manifest() -> None:
    host = {"kind": "mel", "sample_rate": 16000, "n_fft": 512, "hop": 128, "bins": 40, "high_hz": 7600}
    assert MelSettings.of(host) == MelSettings(16000, 512, 128, 40, 20.0, 7600.0)
    assert MelSettings.of({}) == MelSettings()
    with pytest.raises(BundleError, match="'hop' of an input of kind mel is 0"):
        MelSettings.of({"kind": "mel", "hop": 0})
