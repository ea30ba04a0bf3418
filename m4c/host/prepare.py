"""The one door to host-side preparation: a bundle says of each input how it is made, and this makes it.

A manifest carries for each input a small dict such as ``{"kind": "log-mel", "bins": 80}``. What it leaves out has
the default of the published model.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from m4c.errors import BundleError, M4CError, UsageError
from m4c.host import clip_merges
from m4c.host.fbank import FbankSettings, imagebind_audio
from m4c.host.image import CLIP_MEAN, CLIP_STD, prepare_image
from m4c.host.imu import imu_windows, read_imu
from m4c.host.log_mel import log_mel
from m4c.host.resample import resample
from m4c.host.text import ByteTokenizer, JsonTokenizer, PhonemeTokenizer
from m4c.host.wav import read_wav

Array = np.ndarray
Host = Mapping[str, object]


def prepare(host: Host, raw: object, folder: Path = Path()) -> Array:
    """Return the array that an input takes, made of ``raw`` in the way ``host`` describes.

    ``raw`` is a path, or what the path would hold: text; samples at the model's rate, or (samples, rate); pixels
    (height, width, 3) of uint8, or the bytes of an image file; a recording (channels, samples). Files that ``host``
    names are looked up in ``folder``, the bundle.

    Raises:
        BundleError: if the kind is unknown, or a parameter is missing or wrong.
        UsageError: if ``raw`` cannot be used.
    """
    kind = host.get("kind")
    make = KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise BundleError(
            f"this m4c does not know how to prepare an input of kind {kind!r}",
            where=f"host of an input: {dict(host)}",
            fix=f"use a newer m4c, or one of the kinds: {', '.join(sorted(KINDS))}",
        )
    return make(host, raw, folder)


def _image(host: Host, raw: object, folder: Path) -> Array:
    source = raw if isinstance(raw, bytes | np.ndarray) else _path(raw, "an image")
    mean, std = _numbers(host, "mean", CLIP_MEAN), _numbers(host, "std", CLIP_STD)
    if len(mean) != 3 or len(std) != 3:
        raise _wrong(host, "mean", "3 numbers, and so must std be")
    return prepare_image(source, _whole(host, "size", 224), mean, std)


def _log_mel(host: Host, raw: object, folder: Path) -> Array:
    rate, bins, frames = (
        _whole(host, "sample_rate", 16000),
        _whole(host, "bins", 80),
        _whole(host, "frames", 3000),
    )
    return log_mel(_sound(raw, rate), rate, bins, frames)


def _fbank(host: Host, raw: object, folder: Path) -> Array:
    usual = FbankSettings()
    form = FbankSettings(
        rate=_whole(host, "sample_rate", usual.rate),
        bins=_whole(host, "bins", usual.bins),
        frames=_whole(host, "frames", usual.frames),
        clips=_whole(host, "clips", usual.clips),
        clip_seconds=_number(host, "clip_seconds", usual.clip_seconds),
        mean=_number(host, "mean", usual.mean),
        std=_number(host, "std", usual.std),
    )
    return imagebind_audio(_sound(raw, form.rate), form)


def _imu(host: Host, raw: object, folder: Path) -> Array:
    """Return the first window of the recording."""
    channels = _whole(host, "channels", 6)
    recording = raw if isinstance(raw, np.ndarray) else read_imu(_path(raw, "a motion recording"), channels)
    if recording.ndim != 2 or len(recording) != channels:
        raise UsageError(
            f"not {channels} channels: shape {list(recording.shape)}", fix="give (channels, samples)"
        )
    return imu_windows(recording, _whole(host, "samples", 2000))[0]


def _clip_bpe(host: Host, raw: object, folder: Path) -> Array:
    vocabulary = _asset(host, "vocabulary", folder) if "vocabulary" in host else None
    load = partial(clip_merges.load, context=_whole(host, "context", 77), pad=_whole(host, "pad", 0, least=0))
    return load(_asset(host, "asset", folder), vocabulary).encode(_text(raw))


def _bytes(host: Host, raw: object, folder: Path) -> Array:
    usual = ByteTokenizer()
    return ByteTokenizer(
        context=_whole(host, "context", usual.context),
        start=_whole(host, "start", usual.start),
        end=_whole(host, "end", usual.end),
        pad=_whole(host, "pad", usual.pad, least=0),
    ).encode(_text(raw))


def _json_tokenizer(host: Host, raw: object, folder: Path) -> Array:
    """Return the start tokens that the bundle names, then those of the text."""
    start = np.array([[int(i) for i in _numbers(host, "start", ())]], np.int64)
    return np.concatenate([start, JsonTokenizer(_asset(host, "asset", folder)).encode(_text(raw))], axis=1)


def _phonemes(host: Host, raw: object, folder: Path) -> Array:
    symbols, end = host.get("symbols"), host.get("end")
    if not isinstance(symbols, list | tuple) or not all(isinstance(s, str) for s in symbols):
        raise _wrong(host, "symbols", "a list of symbols")
    if end is not None and not isinstance(end, str):
        raise _wrong(host, "end", "a symbol")
    return PhonemeTokenizer(symbols, end).encode(_text(raw))


KINDS: Mapping[str, Callable[[Host, object, Path], Array]] = {
    "bytes": _bytes,
    "clip-bpe": _clip_bpe,
    "fbank": _fbank,
    "image": _image,
    "imu": _imu,
    "json-tokenizer": _json_tokenizer,
    "log-mel": _log_mel,
    "phonemes": _phonemes,
}
"""What each kind of preparation calls."""


def _sound(raw: object, rate: int) -> Array:
    """Return mono samples at ``rate`` Hz of a WAV file, of (samples, rate), or of samples at that rate."""
    match raw:
        case np.ndarray():
            return raw
        case (np.ndarray() as samples, int(given)):
            return resample(samples, given, rate)
        case _:
            samples, given = read_wav(_path(raw, "a sound"))
            return resample(samples, given, rate)


def _text(raw: object) -> str:
    if isinstance(raw, str):
        return raw
    raise UsageError(f"this input is made of text, not of {type(raw).__name__}", fix="give a string")


def _path(raw: object, what: str) -> Path:
    if isinstance(raw, str | Path):
        return Path(raw)
    raise UsageError(
        f"this input is made of {what}, not of {type(raw).__name__}", fix="give the path of a file"
    )


def _asset(host: Host, key: str, folder: Path) -> Path:
    """Return the path of a file of the bundle; a name that leads out of the bundle is refused."""
    name = host.get(key)
    if not isinstance(name, str) or not name:
        raise _wrong(host, key, "the name of a file of the bundle")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise _wrong(host, key, "a file inside the bundle")
    return folder / path


def _number(host: Host, key: str, usual: float) -> float:
    value = host.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(host, key, "a number")
    return float(value)


def _whole(host: Host, key: str, usual: int, *, least: int = 1) -> int:
    value = host.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _wrong(host, key, f"a whole number from {least} up")
    return value


def _numbers(host: Host, key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    value = host.get(key, usual)
    if not isinstance(value, list | tuple) or not all(isinstance(v, int | float) for v in value):
        raise _wrong(host, key, "a list of numbers")
    return tuple(value)


def _wrong(host: Host, key: str, wanted: str) -> M4CError:
    return BundleError(
        f"{key!r} of an input of kind {host.get('kind')} is {host.get(key)!r}, it must be {wanted}",
        where=f"host of an input: {dict(host)}",
        fix="build the bundle again",
    )
