"""The one door to host-side preparation: a bundle says of each input how it is made, and this makes it.

A manifest carries for each input a small dict such as ``{"kind": "log-mel", "bins": 80}``. What it leaves out has
the default of the published model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from m4c.errors import BundleError, UsageError
from m4c.host import clip_merges, facts
from m4c.host.facts import Host
from m4c.host.fbank import FbankSettings, imagebind_audio
from m4c.host.image import CLIP_MEAN, CLIP_STD, prepare_image
from m4c.host.imu import imu_windows, read_imu
from m4c.host.log_mel import log_mel
from m4c.host.phonemes import PhonemeTokenizer, letters, read_dictionary
from m4c.host.resample import resample
from m4c.host.text import ByteTokenizer, JsonTokenizer
from m4c.host.wav import read_wav

Array = np.ndarray


def prepare(host: Host, raw: object, folder: Path = Path()) -> Array:
    """Return the array that an input takes, made of ``raw`` in the way ``host`` describes.

    ``raw`` is a path, or what the path would hold: text; samples at the model's rate, or (samples, rate); pixels
    (height, width, 3) of uint8, or the bytes of an image file; a recording (channels, samples). Files that ``host``
    names are looked up in ``folder``, where the bundle keeps the sub-model's files.

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
    mean, std = facts.numbers(host, "mean", CLIP_MEAN), facts.numbers(host, "std", CLIP_STD)
    if len(mean) != 3 or len(std) != 3:
        raise facts.wrong(host, "mean", "3 numbers, and so must std be")
    return prepare_image(source, facts.whole(host, "size", 224), mean, std)


def _log_mel(host: Host, raw: object, folder: Path) -> Array:
    rate, bins, frames = (
        facts.whole(host, "sample_rate", 16000),
        facts.whole(host, "bins", 80),
        facts.whole(host, "frames", 3000),
    )
    return log_mel(_sound(raw, rate), rate, bins, frames)


def _fbank(host: Host, raw: object, folder: Path) -> Array:
    usual = FbankSettings()
    form = FbankSettings(
        rate=facts.whole(host, "sample_rate", usual.rate),
        bins=facts.whole(host, "bins", usual.bins),
        frames=facts.whole(host, "frames", usual.frames),
        clips=facts.whole(host, "clips", usual.clips),
        clip_seconds=facts.number(host, "clip_seconds", usual.clip_seconds),
        mean=facts.number(host, "mean", usual.mean),
        std=facts.number(host, "std", usual.std),
    )
    return imagebind_audio(_sound(raw, form.rate), form)


def _imu(host: Host, raw: object, folder: Path) -> Array:
    """Return the first window of the recording."""
    channels = facts.whole(host, "channels", 6)
    recording = raw if isinstance(raw, np.ndarray) else read_imu(_path(raw, "a motion recording"), channels)
    if recording.ndim != 2 or len(recording) != channels:
        raise UsageError(
            f"not {channels} channels: shape {list(recording.shape)}", fix="give (channels, samples)"
        )
    return imu_windows(recording, facts.whole(host, "samples", 2000))[0]


def _clip_bpe(host: Host, raw: object, folder: Path) -> Array:
    vocabulary = facts.asset(host, "vocabulary", folder) if "vocabulary" in host else None
    context, pad = facts.whole(host, "context", 77), facts.whole(host, "pad", 0, least=0)
    made = clip_merges.load(facts.asset(host, "asset", folder), vocabulary, context=context, pad=pad)
    for key, id_ in (("start", made.start), ("end", made.end)):
        if host.get(key, id_) != id_:
            raise facts.wrong(host, key, f"{id_}, by the merges beside it")
    return made.encode(_text(raw))


def _bytes(host: Host, raw: object, folder: Path) -> Array:
    """Return CLIP's form where there is a context to fill, else a prompt: start tokens and text, no end."""
    if "context" not in host:
        return np.concatenate([_start(host), np.array([[*_text(raw).encode()]], np.int64)], axis=1)
    usual = ByteTokenizer()
    return ByteTokenizer(
        context=facts.whole(host, "context", usual.context),
        start=facts.whole(host, "start", usual.start),
        end=facts.whole(host, "end", usual.end),
        pad=facts.whole(host, "pad", usual.pad, least=0),
    ).encode(_text(raw))


def _json_tokenizer(host: Host, raw: object, folder: Path) -> Array:
    """Return a prompt: the start tokens that the bundle names, then those of the text, no end."""
    text = JsonTokenizer(facts.asset(host, "asset", folder)).encode(_text(raw))
    return np.concatenate([_start(host), text], axis=1)


def _phonemes(host: Host, raw: object, folder: Path) -> Array:
    symbols = host.get("symbols")
    if symbols is None:
        symbols = read_dictionary(facts.asset(host, "asset", folder))
    elif not isinstance(symbols, list | tuple) or not all(isinstance(s, str) for s in symbols):
        raise facts.wrong(host, "symbols", "a list of symbols")
    return PhonemeTokenizer(
        tuple(symbols),
        end=facts.whole(host, "end", 0, least=0) if "end" in host else None,
        pad=facts.whole(host, "pad", 1, least=0),
        length=facts.whole(host, "length", 1) if "length" in host else None,
    ).encode(_text(raw) if "gap" not in host else letters(_text(raw), str(host["gap"])))


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


def _start(host: Host) -> Array:
    """Return the tokens (1, n) that every prompt starts with."""
    return np.array([[int(i) for i in facts.numbers(host, "start", ())]], np.int64)


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
