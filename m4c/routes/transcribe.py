"""T32, speech recognition: a WAV file to text, over the three graphs of ``aud_i_enc``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from m4c.bundle import Manifest, host_folder
from m4c.host.greedy import decode, numbers
from m4c.host.text import ByteTokenizer, JsonTokenizer
from m4c.routes.opened import open_graphs
from m4c.static_cache import empty_cache, most_steps


def transcribe(folder: Path, manifest: Manifest, audio: Path, adapter: str | None = None) -> str:
    """Return the text that is spoken in ``audio``, as a recognizer with ``adapter`` hears it.

    Raises:
        UsageError: if the file is not readable sound, or there is no such adapter.
        BundleError: if the bundle lacks a graph of the route, or its adapter does not fit.
    """
    names = [f"aud_i_enc/{part}" for part in ("encoder", "cross", "decoder")]
    encoder, cross, decoder = open_graphs(folder, manifest, names, adapter)
    keeper = decoder.record
    heard = cross.runner.run({"states": encoder.made(audio)})
    host = {**keeper.inputs[0].host, **manifest.submodel("aud_i_enc").host}
    limit = most_steps(keeper, numbers(host, "max_tokens")[0])
    tokens = list(decode(decoder.runner.run, heard, empty_cache(keeper), {**host, "max_tokens": limit}))
    return _text(host, host_folder(folder, "aud_i_enc"), tokens)


def _text(host: Mapping[str, object], folder: Path, tokens: Sequence[int]) -> str:
    """Decode tokens with the tokenizer that the bundle names."""
    if host.get("kind") == "bytes":
        return ByteTokenizer().decode(tokens)
    return JsonTokenizer(folder / str(host["asset"])).decode(tokens).strip()
