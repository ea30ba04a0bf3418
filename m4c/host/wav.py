"""Reading and writing WAV files: a small RIFF reader, as the standard library's refuses float and extensible ones.

Every function hands over mono sound: the first channel, as ImageBind's preparation reads it.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.errors import UsageError

Array = np.ndarray

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
UNKNOWN_LENGTH = 0x7FFFF000
"""Programs that write to a pipe do not know the length beforehand; they write this much or more."""

RE_ENCODE = "convert it to 16-bit PCM, as in: ffmpeg -i input -c:a pcm_s16le output.wav"


@dataclass(frozen=True, slots=True)
class _Format:
    tag: int
    channels: int
    rate: int
    bits: int


def read_wav(path: Path) -> tuple[Array, int]:
    """Return the first channel as float32 in [-1, 1], and the sample rate in Hz.

    Reads integer PCM of 8, 16, 24 and 32 bits and float of 32 and 64 bits.

    Raises:
        UsageError: if the file is unreadable, not RIFF/WAVE, compressed, cut short or without samples.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the sound: {error.strerror}", where=str(path), fix="give the path of a WAV file"
        ) from error
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise UsageError("not a WAV file: it does not start with RIFF … WAVE", where=str(path), fix=RE_ENCODE)
    form, data = _chunks(content, path)
    samples = _decode(form, data, path)
    if not samples.size:
        raise UsageError("the WAV file holds no samples", where=str(path), fix="record the sound again")
    return samples, form.rate


def write_wav(path: Path, samples: Array, rate: int) -> None:
    """Write mono ``samples`` in [-1, 1] as 16-bit PCM at ``rate`` Hz; louder samples are clipped."""
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise UsageError(
            f"not a mono sound of finite samples: shape {list(samples.shape)}",
            where=str(path),
            fix="give one axis of finite numbers",
        )
    data = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, PCM, 1, rate, 2 * rate, 2, 16
    )
    path.write_bytes(head + struct.pack("<4sI", b"data", len(data)) + data)


def _chunks(content: bytes, path: Path) -> tuple[_Format, bytes]:
    """Return the format and the bytes of the samples."""
    form: _Format | None = None
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + size]
        if len(body) < size and not (name == b"data" and size >= UNKNOWN_LENGTH):
            raise UsageError(
                f"the WAV file is cut short: {len(body)} of {size} bytes are there",
                where=str(path),
                fix="copy or record the file again",
            )
        if name == b"fmt ":
            form = _format(body, path)
        if name == b"data":
            if form is None:
                raise UsageError("the WAV file does not say its format", where=str(path), fix=RE_ENCODE)
            return form, body
        at += 8 + size + size % 2
    raise UsageError("the WAV file has no sound in it (no data chunk)", where=str(path), fix=RE_ENCODE)


def _format(body: bytes, path: Path) -> _Format:
    """Read a ``fmt `` chunk; the extensible form names the real format in its first two GUID bytes."""
    if len(body) < 16:
        raise UsageError("the WAV file does not say its format", where=str(path), fix=RE_ENCODE)
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if tag == EXTENSIBLE and len(body) >= 26:
        (tag,) = struct.unpack_from("<H", body, 24)
    if (tag, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        kind = {PCM: "PCM", FLOAT: "float"}.get(tag, f"compressed (format {tag:#06x})")
        raise UsageError(f"WAV of an unreadable kind: {kind}, {bits} bits", where=str(path), fix=RE_ENCODE)
    if not channels or not rate:
        raise UsageError(
            f"the WAV file claims {channels} channels at {rate} Hz", where=str(path), fix=RE_ENCODE
        )
    return _Format(tag, channels, rate, bits)


def _decode(form: _Format, data: bytes, path: Path) -> Array:
    """Return the first channel of ``data`` as float32."""
    frame = form.channels * form.bits // 8
    data = data[: len(data) // frame * frame]
    if form.tag == FLOAT:
        samples = np.frombuffer(data, f"<f{form.bits // 8}")[:: form.channels].astype(np.float32)
        if not np.isfinite(samples).all():
            raise UsageError(
                "the WAV file holds samples that are not numbers", where=str(path), fix=RE_ENCODE
            )
        return samples
    if form.bits == 8:
        return (np.frombuffer(data, np.uint8)[:: form.channels].astype(np.float32) - 128) / 128
    if form.bits == 24:
        whole = np.zeros((len(data) // 3, 4), np.uint8)
        whole[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        integers = whole.view("<i4")[:, 0]
    else:
        integers = np.frombuffer(data, f"<i{form.bits // 8}")
    scale = 2.0 ** (15 if form.bits == 16 else 31)
    return (integers[:: form.channels] / scale).astype(np.float32)
