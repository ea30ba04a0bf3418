"""Sizes of the backbone and its two linear heads: the presets, and what a checkpoint's ``config.json`` says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from m4c.checkpoints.configuration import read_configuration
from m4c.errors import CheckpointError, UsageError
from m4c.quiet import quiet

ARCHITECTURE = "LlamaForCausalLM"

LARGEST_MODEL = 1 << 40
"""Weights: ten times what is published. Shapes beyond it overflow before anything could be allocated."""

LARGEST_TABLE = 1 << 27
"""Entries of the table of rotary angles, which is the one thing that is made from sizes alone: a million positions."""

SHORTEST_CONTEXT = 8
"""Positions: artifacts are checked on three steps after five."""

MOST_LAYERS = 1024
"""Layers are modules: each takes memory, however narrow it is."""

FIXED_ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary kinds whose angles depend on the position alone, so that a table can hold them."""

STATED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
)
"""Keys of a ``config.json`` that must be there: the library would fill in LLaMA-7B's values for them."""


APART = ("quantization_config", "dtype", "torch_dtype")
"""Keys of a ``config.json`` that say how weights are stored: :mod:`m4c.checkpoints` reads the first, and files say the rest."""


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """Sizes of one LLaMA, in transformers' terms. Defaults: LLaMA-7B, as published in its configuration."""

    vocabulary: int = 32000
    width: int = 4096
    ffn: int = 11008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int = 128
    max_positions: int = 2048
    rms_epsilon: float = 1e-6
    rope: Mapping[str, object] = field(
        default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0}, hash=False
    )
    attention_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    """Whether the output layer is the token embedding."""
    begin: int = 1
    end: tuple[int, ...] = (2,)
    context: int | None = None
    """Positions that a graph is made for; None: all that the model was made for, on which its rotary angles may depend."""

    def __post_init__(self) -> None:
        """Refuse sizes that the graph cannot express."""
        if self.positions > self.max_positions:
            raise UsageError(
                f"a context of {self.positions} positions is longer than the {self.max_positions} that the model knows",
                fix=f"give --context-length {self.max_positions} or less",
            )
        if self.positions < SHORTEST_CONTEXT:
            raise UsageError(
                f"a context of {self.positions} positions is too short",
                fix=f"artifacts are checked on {SHORTEST_CONTEXT} positions: allow as many",
            )
        if self.heads % self.kv_heads:
            raise UsageError(
                f"{self.heads} heads do not share {self.kv_heads} key-value heads evenly",
                fix="kv_heads must divide heads",
            )
        if self.rope.get("rope_type") not in FIXED_ROPES:
            raise UsageError(
                f"rotary embeddings of type {self.rope.get('rope_type')!r} depend on more than the position",
                fix=f"use a model with one of: {', '.join(FIXED_ROPES)}",
            )

    @property
    def positions(self) -> int:
        """Rows of the rotary tables: the most steps that a sequence can have."""
        return self.max_positions if self.context is None else self.context

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "LlamaSizes":
        """Return the sizes that a checkpoint's ``config.json`` states.

        Raises:
            CheckpointError: if it is not a LLaMA, or lacks what has no default.
            UsageError: if the sizes are none that a graph can express.
        """
        architectures = values.get("architectures") or [ARCHITECTURE]
        if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
            raise CheckpointError(
                f"architectures is {architectures!r}",
                where="config.json",
                fix=f"the backbone takes checkpoints of {ARCHITECTURE}",
            )
        if values.get("model_type") != "llama" or values.get("hidden_act", "silu") != "silu":
            raise CheckpointError(
                f"model_type is {values.get('model_type')!r}, hidden_act is {values.get('hidden_act')!r}",
                where="config.json",
                fix="the backbone takes checkpoints of model_type 'llama' with hidden_act 'silu'",
            )
        missing = [key for key in STATED if values.get(key) is None]
        if missing:
            raise CheckpointError(
                f"the configuration lacks {', '.join(missing)}",
                where="config.json",
                fix="add what the model was trained with: a default would give wrong numbers in silence",
            )
        _check_count("num_attention_heads", values["num_attention_heads"])  # the library divides by it
        try:
            with quiet("transformers.configuration_utils"):  # what it warns of is an error below
                config = LlamaConfig.from_dict({k: v for k, v in values.items() if k not in APART})
        except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"transformers refuses the configuration: {' '.join(str(error).split())}",
                where="config.json",
                fix="compare it with the config.json that the checkpoint was published with",
            ) from error
        _check_sizes(config)
        return cls.from_library(config)

    @classmethod
    def from_library(cls, config: LlamaConfig) -> "LlamaSizes":
        """Return the sizes of a transformers configuration."""
        ends = config.eos_token_id
        return cls(
            vocabulary=config.vocab_size,
            width=config.hidden_size,
            ffn=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            max_positions=config.max_position_embeddings,
            rms_epsilon=config.rms_norm_eps,
            rope=dict(config.rope_parameters),
            attention_bias=config.attention_bias,
            mlp_bias=config.mlp_bias,
            tied=config.tie_word_embeddings,
            begin=config.bos_token_id,
            end=tuple(ends) if isinstance(ends, list) else (ends,),
        )

    def to_library(self) -> LlamaConfig:
        """Return these sizes as a transformers configuration."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.max_positions,
            rms_norm_eps=self.rms_epsilon,
            rope_parameters=dict(self.rope),
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            tie_word_embeddings=self.tied,
            bos_token_id=self.begin,
            eos_token_id=list(self.end),
            attn_implementation="eager",
        )


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """Sizes of ``gen_dec``: the backbone's state width and the number of tokens it scores."""

    width: int = 4096
    vocabulary: int = 32000
    tied: bool = False
    """Whether the output layer is the token embedding, under whose name it is stored then."""


@dataclass(frozen=True, slots=True)
class ProjectionSizes:
    """Sizes of ``projection``: the encoders' embedding width and the backbone's state width."""

    embedding: int = 1024
    width: int = 4096


EMBEDDING_WIDTH = {"m4": 1024, "m4-nano": 64}
"""Width of the encoders' embeddings in each preset."""

NANO = LlamaSizes(
    vocabulary=512, width=128, ffn=352, layers=2, heads=4, kv_heads=4, head_dim=32, max_positions=128
)

PRESETS: Mapping[str, Mapping[str, LlamaSizes | HeadSizes | ProjectionSizes]] = {
    "m4": {
        "backbone": LlamaSizes(),
        "gen_dec": HeadSizes(),
        "projection": ProjectionSizes(EMBEDDING_WIDTH["m4"]),
    },
    "m4-nano": {
        "backbone": NANO,
        "gen_dec": HeadSizes(NANO.width, NANO.vocabulary),
        "projection": ProjectionSizes(EMBEDDING_WIDTH["m4-nano"], NANO.width),
    },
}


def sizes_in(name: str, path: Path) -> LlamaSizes | HeadSizes:
    """Return the sizes of ``backbone`` or ``gen_dec`` that the ``config.json`` at ``path`` states.

    Raises:
        CheckpointError: if it is unreadable, of another model, or of sizes that no model has.
        UsageError: if the sizes are none that a graph can express.
    """
    try:
        sizes = LlamaSizes.from_json(read_configuration(path))
    except (CheckpointError, UsageError) as error:
        raise type(error)(error.what, where=str(path), fix=error.fix) from error
    return sizes if name == "backbone" else HeadSizes(sizes.width, sizes.vocabulary, sizes.tied)


def _check_sizes(config: LlamaConfig) -> None:
    """Refuse numbers that no model has, before anything is made from them."""
    counts = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
    }
    for name, count in counts.items():
        _check_count(name, count)
    if config.num_hidden_layers > MOST_LAYERS:
        raise _absurd(f"num_hidden_layers is {config.num_hidden_layers}, more than {MOST_LAYERS}")
    heads = config.num_attention_heads + config.num_key_value_heads
    layer = 2 * heads * config.head_dim + 3 * config.intermediate_size
    weights = config.hidden_size * (config.num_hidden_layers * layer + 2 * config.vocab_size)
    if weights > LARGEST_MODEL:
        raise _absurd(f"the sizes make {weights} weights")
    if config.max_position_embeddings * config.head_dim > LARGEST_TABLE:
        raise _absurd(f"max_position_embeddings is {config.max_position_embeddings}")
    ratios = {"rms_norm_eps": config.rms_norm_eps} | {
        name: value for name, value in config.rope_parameters.items() if isinstance(value, int | float)
    }
    for name, ratio in ratios.items():
        if not math.isfinite(ratio) or ratio < 0:
            raise _absurd(f"{name} is {ratio}")
    if not ratios.get("rope_theta"):
        raise _absurd(f"rope_theta is {config.rope_parameters.get('rope_theta')!r}, not a positive number")
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if not ends:
        raise _absurd("eos_token_id is empty")
    for token in (config.bos_token_id, *ends):
        if type(token) is not int or not 0 <= token < config.vocab_size:
            raise _absurd(f"token {token!r} begins or ends a text, but is none of the {config.vocab_size}")


def _check_count(name: str, count: object) -> None:
    """Refuse what is no number of things."""
    if type(count) is not int or count < 1:
        raise _absurd(f"{name} is {count!r}, not a positive number")


def _absurd(what: str) -> CheckpointError:
    """Return the error for a number that no model has."""
    return CheckpointError(
        what,
        where="config.json",
        fix="compare it with the config.json that the checkpoint was published with",
    )
