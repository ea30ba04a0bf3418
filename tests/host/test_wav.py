"""WAV files: every sample format reads back, and what is not a WAV file is refused with a reason."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from m4c.errors import UsageError
from m4c.host.wav import read_wav, write_wav

Array = np.ndarray


def riff(
    tag: int, bits: int, data: bytes, channels: int = 1, rate: int = 16000, size: int | None = None
) -> bytes:
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)
    if tag == 0xFFFE:
        form += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H14s", 1, b"\0" * 14)
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form
    chunks += struct.pack("<4sI", b"LIST", 3) + b"abc\0"  # odd chunks are padded
    chunks += struct.pack("<4sI", b"data", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def int24(values: Array) -> bytes:
    return b"".join(int(v).to_bytes(3, "little", signed=True) for v in values)


WANTED = np.array([0.0, 0.5, -0.5, 0.25, -1.0], np.float32)
FORMATS = {
    "8 bits": (1, 8, np.round(WANTED * 128 + 128).astype(np.uint8).tobytes()),
    "16 bits": (1, 16, (WANTED * 2**15).astype("<i2").tobytes()),
    "24 bits": (1, 24, int24(WANTED * 2**23)),
    "32 bits": (1, 32, (WANTED * 2**31).astype("<i4").tobytes()),
    "float": (3, 32, WANTED.astype("<f4").tobytes()),
    "double": (3, 64, WANTED.astype("<f8").tobytes()),
    "extensible": (0xFFFE, 16, (WANTED * 2**15).astype("<i2").tobytes()),
}


@pytest.mark.parametrize("form", FORMATS)
def test_reads_every_format(form: str, tmp_path: Path) -> None:
    tag, bits, data = FORMATS[form]
    path = tmp_path / "a.wav"
    path.write_bytes(riff(tag, bits, data))
    samples, rate = read_wav(path)
    assert (rate, samples.dtype) == (16000, np.dtype("float32"))
    np.testing.assert_array_equal(samples, WANTED)


def test_reads_what_the_standard_library_wrote_and_takes_the_first_channel(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    frames = np.array([[100, -7], [200, -7], [-300, -7]], "<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(frames.tobytes())
    samples, rate = read_wav(path)
    assert rate == 44100
    np.testing.assert_array_equal(samples * 2**15, frames[:, 0])


def test_writes_what_the_standard_library_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    path, samples = tmp_path / "w.wav", rng.uniform(-1, 1, 1001).astype(np.float32)
    write_wav(path, np.append(samples, [np.float32(3)]), 22050)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 2, 22050, 1002)
    back, rate = read_wav(path)
    assert rate == 22050
    np.testing.assert_allclose(back[:-1], samples, atol=1 / 2**14)
    assert back[-1] == pytest.approx(1, abs=1e-4)  # clipped


def test_a_stream_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    path.write_bytes(riff(1, 16, np.arange(8, dtype="<i2").tobytes(), size=0x7FFFF000))
    assert len(read_wav(path)[0]) == 8


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"ID3\x04" + bytes(40), "not a WAV file"),
        (b"", "not a WAV file"),
        (riff(0x55, 16, bytes(8)), "compressed"),
        (riff(1, 12, bytes(8)), "PCM, 12 bits"),
        (riff(1, 16, b""), "holds no samples"),
        (riff(1, 16, bytes(100))[:-10], "cut short: 90 of 100 bytes"),
        (riff(1, 16, bytes(100))[:40], "no data chunk"),
        (riff(1, 16, bytes(8), channels=0), "0 channels"),
        (riff(3, 32, np.array([np.nan], "<f4").tobytes()), "not numbers"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0ab", "does not say its format"),
    ],
)
def test_refuses_with_a_reason_and_a_fix(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=what) as caught:
        read_wav(path)
    assert caught.value.fix
    assert str(path) in str(caught.value)


def test_refuses_a_missing_file_and_unwritable_samples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_wav(tmp_path / "none.wav")
    with pytest.raises(UsageError, match="not a mono sound"):
        write_wav(tmp_path / "out.wav", np.zeros((2, 5)), 16000)
