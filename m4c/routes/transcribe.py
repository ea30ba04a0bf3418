"""T32, speech recognition: a WAV file to text, over the three graphs of ``aud_i_enc``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from m4c.adapters.contract import adapter_files
from m4c.bundle import Manifest, host_folder
from m4c.host.greedy import decode, numbers
from m4c.host.prepare import prepare
from m4c.host.text import ByteTokenizer, JsonTokenizer
from m4c.host.wav import read_wav
from m4c.static_cache import empty_cache, most_steps, open_decoder


def transcribe(folder: Path, manifest: Manifest, audio: Path, adapter: str | None = None) -> str:
    """Return the text that is spoken in ``audio``, as a recognizer with ``adapter`` hears it.

    Raises:
        UsageError: if the file is not readable sound, or there is no such adapter.
        BundleError: if the bundle lacks a graph of the route, or its adapter does not fit.
    """
    names = [f"aud_i_enc/{part}" for part in ("encoder", "cross", "decoder")]
    files = adapter_files(folder, manifest, names, adapter)
    encoder, cross, decoder = (open_decoder(folder, manifest.graph(name), files.get(name)) for name in names)
    keeper = manifest.graph("aud_i_enc/decoder")
    mel = manifest.graph("aud_i_enc/encoder").inputs[0]
    states = encoder.run({"mel": prepare(mel.host, read_wav(audio))})
    heard = cross.run({"states": states["states"]})
    host = {**keeper.inputs[0].host, **manifest.submodel("aud_i_enc").host}
    limit = most_steps(keeper, numbers(host, "max_tokens")[0])
    tokens = list(decode(decoder.run, heard, empty_cache(keeper), {**host, "max_tokens": limit}))
    return _text(host, host_folder(folder, "aud_i_enc"), tokens)


def _text(host: Mapping[str, object], folder: Path, tokens: Sequence[int]) -> str:
    """Decode tokens with the tokenizer that the bundle names."""
    if host.get("kind") == "bytes":
        return ByteTokenizer().decode(tokens)
    return JsonTokenizer(folder / str(host["asset"])).decode(tokens).strip()
