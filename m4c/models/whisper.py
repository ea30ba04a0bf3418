"""``aud_i_enc``: Whisper, in three graphs.

The encoder runs once an utterance, ``cross`` turns its states into the keys and values that every decoder layer reads, also
once, and the decoder runs once a token with a growing self-attention cache. So nothing is computed twice, and each graph can
go to another processor at another precision.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, WhisperConfig, WhisperForConditionalGeneration

from m4c.checkpoints.configuration import read_configuration
from m4c.host.greedy import decode, numbers
from m4c.models.attention import MASK, POSITIONS, cache_ports, sample_floats, sample_steps, static_steps
from m4c.models.graph import Arrays, Graph, GraphModule, Port, Route, Run, Sizes, Submodel
from m4c.static_cache import Stepped, empty_cache, most_steps


@dataclass(frozen=True, slots=True)
class WhisperSizes:
    """Sizes and special tokens of one Whisper. Defaults: tiny.en, as published in its configuration."""

    vocabulary: int = 51864
    width: int = 384
    encoder_layers: int = 4
    decoder_layers: int = 4
    heads: int = 6
    ffn: int = 1536
    mels: int = 80
    frames: int = 3000
    max_tokens: int = 448
    end: int = 50256
    start: tuple[int, ...] = (50257, 50362)
    """Start of transcript, then the token that asks for no time stamps."""
    tokenizer: str = "json-tokenizer"
    first_timestamp: int | None = 50363
    """Tokens from here on are time stamps, never chosen in a decoding without them."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


PRESETS: Mapping[str, Mapping[str, WhisperSizes]] = {
    "m4": {"aud_i_enc": WhisperSizes()},
    "m4-nano": {
        "aud_i_enc": WhisperSizes(
            vocabulary=258, width=64, encoder_layers=2, decoder_layers=2, heads=4, ffn=128, frames=200,
            max_tokens=64, end=257, start=(256,), first_timestamp=None, tokenizer="bytes",
        )
    },
}  # fmt: skip


class _Encoder(GraphModule):
    """Log-mel to states."""

    def forward(self, mel: Tensor) -> Tensor:
        """Encode ``mel`` (batch, mels, frames) into states (batch, frames/2, width)."""
        states: Tensor = self.source.model.encoder(mel).last_hidden_state
        return states


class _Cross(GraphModule):
    """States to the keys and values that the decoder's cross-attention reads."""

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        """Return key and value of each layer in turn, (batch, heads, frames/2, head_dim) each."""
        made: list[Tensor] = []
        for layer in self.source.model.decoder.layers:
            attention = layer.encoder_attn
            for project in (attention.k_proj, attention.v_proj):
                flat = project(states)
                heads = flat.view(*flat.shape[:2], attention.num_heads, attention.head_dim)
                made.append(heads.transpose(1, 2))
        return tuple(made)


class _Decoder(GraphModule):
    """Tokens and caches to token scores and grown caches."""

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Decode one stretch of tokens; ``caches`` are the pairs of self-attention, then those of cross-attention."""
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        layers = len(pairs) // 2
        cache = EncoderDecoderCache(DynamicCache(pairs[:layers]), DynamicCache(pairs[layers:]))
        cache.is_updated = dict.fromkeys(range(layers), True)
        out = self.source.model.decoder(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            encoder_hidden_states=caches[-1],  # only its presence is looked at: keys and values are cached
            past_key_values=cache,
            use_cache=True,
        )
        grown = [t for layer in cache.self_attention_cache.layers for t in (layer.keys, layer.values)]
        return (self.source.proj_out(out.last_hidden_state), *grown)


def build(name: str, config: WhisperSizes) -> Submodel:
    """Build ``aud_i_enc``."""
    source = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=config.vocabulary,
            d_model=config.width,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.ffn,
            decoder_ffn_dim=config.ffn,
            num_mel_bins=config.mels,
            max_source_positions=config.frames // 2,
            max_target_positions=config.max_tokens,
            decoder_start_token_id=config.start[0],
            eos_token_id=config.end,
            bos_token_id=config.end,
            pad_token_id=config.end,
            attn_implementation="eager",
        )
    ).eval()
    graphs = (_encoder(source, config), _cross(source, config), _decoder(source, config))
    return Submodel(
        name=name,
        source=source,
        graphs=graphs,
        licence="MIT (OpenAI Whisper)",
        tied={"proj_out.weight": "model.decoder.embed_tokens.weight"},
        assets=("tokenizer.json",),
        host=decoding_facts,
        route=Route(tuple(graph.name for graph in graphs), partial(_transcribe, _host(config))),
    )


def _transcribe(
    host: Mapping[str, object], run: Run, first: Arrays, facts: Mapping[str, object], last: Stepped
) -> Iterator[None]:
    """Write down the sound ``first`` as speech recognition does: a :class:`m4c.models.graph.Route`."""
    heard = run("aud_i_enc/cross", run("aud_i_enc/encoder", first))
    if last.name == "aud_i_enc/decoder":
        limit = most_steps(last, numbers(host, "max_tokens")[0])
        step = partial(run, last.name)
        for _ in decode(step, heard, empty_cache(last), {**host, **facts, "max_tokens": limit}):
            yield
    yield  # the only call of another graph, or that of the decoder which gave the end token


def decoding_facts(folder: Path) -> dict[str, object]:
    """Return the tokens that decoding must never choose, from the files beside the weights.

    transformers keeps them in ``generation_config.json``, CTranslate2 in ``config.json``; -1 stands for none there.
    """
    for file, always, at_first in (
        ("generation_config.json", "suppress_tokens", "begin_suppress_tokens"),
        ("config.json", "suppress_ids", "suppress_ids_begin"),
    ):
        if (folder / file).is_file():
            facts: Mapping[str, Any] = read_configuration(folder / file)
            if always in facts:
                return {
                    "suppress": [int(i) for i in facts[always] or () if i >= 0],
                    "suppress_at_first": [int(i) for i in facts.get(at_first) or () if i >= 0],
                }
    return {}


def _states(config: WhisperSizes) -> Port:
    return Port(
        "states",
        "float32",
        ("batch", config.frames // 2, config.width),
        "what the encoder made of each 20 ms of sound",
    )


def _encoder(source: nn.Module, config: WhisperSizes) -> Graph:
    mel = Port(
        "mel",
        "float32",
        ("batch", config.mels, config.frames),
        f"log-mel spectrogram of {config.frames / 100:g} s of 16 kHz speech, one frame each 10 ms",
        host={"kind": "log-mel", "sample_rate": 16000, "bins": config.mels, "frames": config.frames},
    )

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return {"mel": rng.uniform(-1, 1, mel.sized(sizes)).astype(np.float32)}

    return Graph("aud_i_enc/encoder", _Encoder(source), (mel,), (_states(config),), sample)


def _kv(config: WhisperSizes, prefix: str, steps: int | str, meaning: str) -> tuple[Port, ...]:
    shape = ("batch", config.heads, steps, config.head_dim)
    return cache_ports(prefix, config.decoder_layers, shape, meaning)


def _cross(source: nn.Module, config: WhisperSizes) -> Graph:
    states = _states(config)

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return sample_floats(rng, (states,), sizes)

    outputs = _kv(config, "cross", config.frames // 2, "what the decoder attends to in the sound")
    return Graph("aud_i_enc/cross", _Cross(source), (states,), outputs, sample)


def _host(config: WhisperSizes) -> dict[str, object]:
    """Return what the host must know of tokens, as the manifest has it."""
    return {
        "kind": config.tokenizer,
        **({"asset": "tokenizer.json"} if config.tokenizer == "json-tokenizer" else {}),
        "start": list(config.start),
        "end": config.end,
        "max_tokens": config.max_tokens,
        "first_timestamp": config.first_timestamp,
    }


def _decoder(source: nn.Module, config: WhisperSizes) -> Graph:
    past = _kv(config, "past", "past", "tokens decoded before")
    cross = _kv(config, "cross", config.frames // 2, "made by aud_i_enc/cross")
    tokens = Port(
        "tokens",
        "int64",
        ("batch", "sequence"),
        "token ids to decode now: the start tokens first, then the token chosen last",
        host=_host(config),
    )
    inputs = (
        tokens,
        POSITIONS,
        MASK,
        *past,
        *cross,
    )
    outputs = (
        Port("logits", "float32", ("batch", "sequence", config.vocabulary), "score of each next token"),
        *_kv(config, "present", "past + sequence", "the past with the tokens of this call"),
    )

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return {
            "tokens": rng.integers(0, config.vocabulary, tokens.sized(sizes)),
            **sample_steps(sizes),
            **sample_floats(rng, (*past, *cross), sizes),
        }

    return Graph(
        "aud_i_enc/decoder",
        _Decoder(source),
        inputs,
        outputs,
        sample,
        sizes={"batch": 1, "sequence": 3, "past": 5},
        dynamic=frozenset({"sequence", "past"}),
        static=static_steps(config.max_tokens, 4 * 2 * config.decoder_layers * config.width),
        max_steps=config.max_tokens,
    )
