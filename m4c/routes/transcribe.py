"""T32, speech recognition: a WAV file to text, over the three graphs of ``aud_i_enc``.

Greedy decoding as Whisper does it: the start tokens at once, then a token a step with the cache; suppressed tokens are never
chosen, and decoding stops at the end token or at the last position that the decoder knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from m4c.bundle import Manifest, host_folder
from m4c.host.masks import causal_mask, positions
from m4c.host.prepare import prepare
from m4c.host.text import ByteTokenizer, JsonTokenizer
from m4c.host.wav import read_wav
from m4c.runners import Runner, open_runner
from m4c.static_cache import empty_cache, most_steps, open_decoder

Array = np.ndarray


def transcribe(folder: Path, manifest: Manifest, audio: Path) -> str:
    """Return the text that is spoken in ``audio``.

    Raises:
        UsageError: if the file is not readable sound.
        BundleError: if the bundle lacks a graph of the route.
    """
    encoder, cross = (
        open_runner(folder / manifest.graph(f"aud_i_enc/{part}").file.path) for part in ("encoder", "cross")
    )
    keeper = manifest.graph("aud_i_enc/decoder")
    decoder = open_decoder(folder, keeper)
    mel = manifest.graph("aud_i_enc/encoder").inputs[0]
    states = encoder.run({"mel": prepare(mel.host, read_wav(audio))})
    heard = cross.run({"states": states["states"]})
    host = {**keeper.inputs[0].host, **manifest.submodel("aud_i_enc").host}
    limit = most_steps(keeper, _numbers(host, "max_tokens")[0])
    tokens = list(decode(decoder, heard, empty_cache(keeper), {**host, "max_tokens": limit}))
    return _text(host, host_folder(folder, "aud_i_enc"), tokens)


def decode(
    decoder: Runner, heard: Mapping[str, Array], past: dict[str, Array], host: Mapping[str, object]
) -> Iterator[int]:
    """Yield the chosen tokens, without the start tokens and the end token.

    ``heard`` are the cross-attention keys and values, ``past`` the empty cache, ``host`` the decoding facts of the manifest.
    """
    start, end, limit = _numbers(host, "start"), _numbers(host, "end")[0], _numbers(host, "max_tokens")[0]
    never = _numbers(host, "suppress")
    at_first = (*never, *_numbers(host, "suppress_at_first"))
    timestamps = next(iter(_numbers(host, "first_timestamp")), None)
    tokens, done = np.array([start], np.int64), 0
    while done + tokens.shape[1] <= limit:
        made = decoder.run(
            {
                "tokens": tokens,
                "positions": positions(tokens.shape[1], done),
                "mask": causal_mask(tokens.shape[1], done),
                **past,
                **heard,
            }
        )
        scores = made["logits"][0, -1].copy()
        scores[list(at_first if not done else never)] = -np.inf
        if timestamps is not None:
            scores[timestamps:] = -np.inf
        chosen = int(scores.argmax())
        if chosen == end:
            return
        yield chosen
        done += tokens.shape[1]
        tokens = np.array([[chosen]], np.int64)
        past = {name: made[name.replace("past", "present")] for name in past}


def _numbers(host: Mapping[str, object], key: str) -> tuple[int, ...]:
    """Return a fact of the manifest as whole numbers; an absent one is none at all."""
    value = host.get(key)
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(str(value)),)


def _text(host: Mapping[str, object], folder: Path, tokens: Sequence[int]) -> str:
    """Decode tokens with the tokenizer that the bundle names."""
    if host.get("kind") == "bytes":
        return ByteTokenizer().decode(tokens)
    return JsonTokenizer(folder / str(host["asset"])).decode(tokens).strip()
