"""``tts_dec``: fairseq's ``tts_transformer``, phonemes to mel spectrogram, in four graphs.

``encoder`` and ``cross`` run once an utterance, ``decoder`` once a step (four frames) with a growing cache, and ``postnet``
once over all steps. ``keep`` inputs hold the padding of a static graph at zero between convolutions, so that padding changes
nothing: the numbers are those of the utterance alone. The waveform is made on the host.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
from torch import Tensor

from m4c.host.masks import HIDDEN
from m4c.models.attention import MASK, POSITIONS, cache_ports, sample_floats, sample_steps, static_steps
from m4c.models.graph import Graph, GraphModule, Port, Sizes, Submodel
from m4c.models.tts_layers import DecoderLayer, TtsTransformer
from m4c.models.tts_sizes import END, PAD, PRESETS, TtsSizes

__all__ = ["PRESETS", "TtsSizes", "build"]

NAME = "tts_dec"


class _Encoder(GraphModule):
    """Phonemes to states."""

    source: TtsTransformer

    def forward(self, phonemes: Tensor, keep: Tensor, mask: Tensor) -> Tensor:
        """Encode ``phonemes`` (batch, length) into states (batch, length, width)."""
        states: Tensor = self.source.encoder(phonemes, keep, mask)
        return states


class _Cross(GraphModule):
    """States to the keys and values that the decoder attends to."""

    source: TtsTransformer

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        """Return key and value of each layer in turn, (batch, heads, length, head_dim) each."""
        layers = cast("Iterable[DecoderLayer]", self.source.decoder.transformer_layers)
        return tuple(made for layer in layers for made in layer.encoder_attn.keys(states))


class _Decoder(GraphModule):
    """Frames and caches to the next frames, the stop score and grown caches."""

    source: TtsTransformer

    def forward(
        self, frames: Tensor, positions: Tensor, mask: Tensor, cross_mask: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        """Decode one stretch; ``caches`` are the pairs of self-attention, then those of cross-attention."""
        made: tuple[Tensor, ...] = self.source.decoder(frames, positions, mask, cross_mask, caches)
        return made


class _Postnet(GraphModule):
    """Features of an utterance to its mel spectrogram."""

    source: TtsTransformer

    def forward(self, features: Tensor, keep: Tensor) -> Tensor:
        """Add the postnet's correction to ``features`` (batch, steps, features)."""
        correction: Tensor = self.source.decoder.postnet(features, keep)
        return features + correction


def build(name: str, config: TtsSizes) -> Submodel:
    """Build ``tts_dec``."""
    source = TtsTransformer(config).eval()
    return Submodel(
        name=name,
        source=source,
        graphs=(
            _encoder(source, config),
            _cross(source, config),
            _decoder(source, config),
            _postnet(source, config),
        ),
        licence="MIT (fairseq)",
        ignored=r".*\.(version|embed_positions\._float_tensor)$|decoder\.ctc_proj\..*",
        assets=("vocab.txt",),
    )


def _states(config: TtsSizes) -> Port:
    return Port(
        "states", "float32", ("batch", "length", config.width), "what the encoder made of each phoneme"
    )


def _keep(steps: str, unit: str) -> Port:
    return Port("keep", "float32", ("batch", 1, steps), f"1 for a {unit}, 0 for padding after the last one")


def _mel_host(config: TtsSizes) -> dict[str, object]:
    """Return how the log-mel frames relate to sound: fairseq's LJSpeech recipe."""
    return {
        "kind": "mel",
        "sample_rate": 22050,
        "n_fft": 1024,
        "hop": 256,
        "bins": config.bins,
        "frames_per_step": config.frames_per_step,
        "mean": config.mel_mean,
        "std": config.mel_std,
    }


def _phoneme_host(config: TtsSizes) -> dict[str, object]:
    """Return how the host makes phoneme ids."""
    host = {"kind": "phonemes", "asset": "vocab.txt", "end": END, "pad": PAD, "length": config.length}
    return host if config.gap is None else {**host, "gap": config.gap}


def _lengths(sizes: Sizes) -> dict[str, np.ndarray]:
    """Return ``keep`` and the additive mask of an utterance that fills three quarters of ``length``."""
    used = np.arange(sizes["length"]) < max(1, sizes["length"] * 3 // 4)
    keep = np.tile(used.astype(np.float32), (sizes["batch"], 1, 1))
    return {"keep": keep, "mask": np.where(keep[:, None] > 0, np.float32(0), HIDDEN)}


def _encoder(source: TtsTransformer, config: TtsSizes) -> Graph:
    phonemes = Port(
        "phonemes",
        "int64",
        ("batch", "length"),
        f"phoneme ids, then the end symbol {END}, then padding {PAD}",
        host=_phoneme_host(config),
    )
    keep = _keep("length", "phoneme")

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        made = _lengths(sizes)
        ids = rng.integers(END + 2, config.symbols, phonemes.sized(sizes))
        return {"phonemes": np.where(made["keep"][:, 0] > 0, ids, PAD), **made}

    return Graph(
        f"{NAME}/encoder",
        _Encoder(source),
        (phonemes, keep, _padding_mask("mask")),
        (_states(config),),
        sample,
        sizes={"batch": 1, "length": config.length},
    )


def _padding_mask(name: str) -> Port:
    return Port(
        name,
        "float32",
        ("batch", 1, 1, "length"),
        "added to the attention scores: 0 for a phoneme, -1e9 for padding",
        host={"kind": "padding-mask", "hidden": float(HIDDEN)},
    )


def _cross(source: TtsTransformer, config: TtsSizes) -> Graph:
    states = _states(config)

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return sample_floats(rng, (states,), sizes)

    return Graph(
        f"{NAME}/cross",
        _Cross(source),
        (states,),
        _cross_ports(config),
        sample,
        sizes={"batch": 1, "length": config.length},
    )


def _cross_ports(config: TtsSizes) -> tuple[Port, ...]:
    shape = ("batch", config.heads, "length", config.head_dim)
    return cache_ports("cross", config.layers, shape, "what the decoder attends to in the phonemes")


def _decoder(source: TtsTransformer, config: TtsSizes) -> Graph:
    frames = Port(
        "frames",
        "float32",
        ("batch", "sequence", config.features),
        f"the step before, as {config.frames_per_step} frames of {config.bins} bins; zeros at first",
        host=_mel_host(config),
    )
    pasts = cache_ports(
        "past", config.layers, ("batch", config.heads, "past", config.head_dim), "steps before this call"
    )
    grown = ("batch", config.heads, "past + sequence", config.head_dim)
    crosses = _cross_ports(config)
    outputs = (
        Port(
            "features",
            "float32",
            ("batch", "sequence", config.features),
            "frames of the next step, unrefined",
        ),
        Port("stop", "float32", ("batch", "sequence", 1), "log-odds that the utterance ends with this step"),
        *cache_ports("present", config.layers, grown, "the past with the steps of this call"),
    )

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        floats = sample_floats(rng, (frames, *pasts, *crosses), sizes)
        mask = {"cross_mask": _lengths(sizes)["mask"]}
        return {"frames": floats.pop("frames"), **sample_steps(sizes), **mask, **floats}

    return Graph(
        f"{NAME}/decoder",
        _Decoder(source),
        (frames, POSITIONS, MASK, _padding_mask("cross_mask"), *pasts, *crosses),
        outputs,
        sample,
        sizes={"batch": 1, "length": config.length, "sequence": 3, "past": 5},
        dynamic=frozenset({"sequence", "past"}),
        static=static_steps(config.max_steps, 4 * 2 * config.layers * config.heads * config.head_dim),
        max_steps=config.max_steps,
    )


def _postnet(source: TtsTransformer, config: TtsSizes) -> Graph:
    shape = ("batch", "steps", config.features)
    features = Port("features", "float32", shape, "all steps of an utterance, unrefined")
    mel = Port(
        "mel",
        "float32",
        shape,
        "log-mel spectrogram, normalised as in training: undo that, then turn it into sound",
        host=_mel_host(config),
    )

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        keep = _lengths({**sizes, "length": sizes["steps"]})["keep"]
        return {**sample_floats(rng, (features,), sizes), "keep": keep}

    return Graph(
        f"{NAME}/postnet",
        _Postnet(source),
        (features, _keep("steps", "step")),
        (mel,),
        sample,
        sizes={"batch": 1, "steps": config.steps},
    )
