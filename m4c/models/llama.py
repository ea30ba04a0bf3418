"""``backbone``, ``gen_dec`` and ``projection``: LLaMA, its output layer alone, and the map from embeddings to its prompt.

The backbone is transformers' ``LlamaForCausalLM``, its modules and names kept, so that checkpoints fit. Only how its layers
call them is written here: mask, positions and cache are inputs, and rotary angles a table. So one graph, without arithmetic on
shapes, serves prefill (``past`` = 0) and decoding (``sequence`` = 1). The numbers are the library's.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from m4c.models import llama_genai
from m4c.models.attention import MASK, POSITIONS, cache_ports, sample_floats, sample_steps, static_steps
from m4c.models.graph import Graph, GraphModule, Port, Repetition, Sizes, Submodel
from m4c.models.llama_layers import CachedLayer, rotary_table
from m4c.models.llama_samples import decoder_inputs, model_inputs
from m4c.models.llama_sizes import PRESETS, HeadSizes, LlamaSizes, ProjectionSizes
from m4c.skeleton import skeleton

__all__ = ["PRESETS", "HeadSizes", "LlamaSizes", "ProjectionSizes", "build"]

LICENCE = "LLaMA research licence, or Llama 2 community licence, as the checkpoint's (Meta)"


class _Embed(GraphModule):
    """Token ids to prompt vectors."""

    source: LlamaForCausalLM

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (batch, sequence, width) of ``tokens`` (batch, sequence)."""
        embeds: Tensor = self.source.model.embed_tokens(tokens)
        return embeds


class _Decoder(GraphModule):
    """Prompt vectors and caches to token scores, states and grown caches."""

    source: LlamaForCausalLM
    cos: Tensor
    sin: Tensor

    def __init__(self, source: LlamaForCausalLM, config: LlamaSizes) -> None:
        super().__init__(source)
        self.groups = config.heads // config.kv_heads
        cos, sin = rotary_table(source, config.positions)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor, *pasts: Tensor) -> tuple[Tensor, ...]:
        """Decode one stretch; ``pasts`` are key and value of each layer in turn."""
        turn = (
            functional.embedding(positions, self.cos).unsqueeze(1),
            functional.embedding(positions, self.sin).unsqueeze(1),
        )
        if self.groups > 1:
            mask = torch.cat([mask] * self.groups, dim=2)
        states, presents = embeds, []
        for layer, *past in zip(self.source.model.layers, pasts[::2], pasts[1::2], strict=True):
            states, present = layer(states, turn, mask, past)
            presents += present
        states = self.source.model.norm(states)
        return (self.source.lm_head(states), states, *presents)


class _Model(_Decoder):
    """Token ids, a mask of padding and caches to token scores and grown caches: embeddings and decoder in one."""

    def forward(self, tokens: Tensor, attention_mask: Tensor, *pasts: Tensor) -> tuple[Tensor, ...]:
        """Decode one stretch; ``pasts`` are key and value of each layer in turn."""
        positions, mask = llama_genai.positions_and_mask(tokens, attention_mask)
        logits, _, *presents = super().forward(
            self.source.model.embed_tokens(tokens), positions, mask, *pasts
        )
        return (logits, *presents)


class _Head(GraphModule):
    """States to token scores."""

    source: nn.ModuleDict

    def forward(self, hidden: Tensor) -> Tensor:
        """Score every token after ``hidden`` (batch, width)."""
        logits: Tensor = self.source["lm_head"](hidden)
        return logits


class _Projection(GraphModule):
    """Embeddings to prompt vectors."""

    source: nn.ModuleDict

    def forward(self, embedding: Tensor) -> Tensor:
        """Map ``embedding`` (batch, embedding) to one prompt vector (batch, 1, width)."""
        prompt: Tensor = self.source["linear"](embedding)
        return prompt.unsqueeze(1)


def build(name: str, config: LlamaSizes | HeadSizes | ProjectionSizes) -> Submodel:
    """Build ``backbone``, ``gen_dec`` or ``projection``: which one, the sizes say."""
    match config:
        case LlamaSizes():
            return _backbone(name, config)
        case HeadSizes():
            return _gen_dec(name, config)
        case ProjectionSizes():
            return _projection(name, config)


def _backbone(name: str, config: LlamaSizes) -> Submodel:
    source = LlamaForCausalLM(config.to_library()).eval()
    source.model.layers = nn.ModuleList(CachedLayer(layer, config) for layer in source.model.layers)
    return Submodel(
        name=name,
        source=source,
        graphs=(
            _embed_graph(name, source, config),
            _decoder_graph(name, source, config),
            _model_graph(name, source, config),
        ),
        licence=LICENCE,
        ignored=r".*\.rotary_emb\.inv_freq$",
        tied={"lm_head.weight": "model.embed_tokens.weight"} if config.tied else {},
        assets=("tokenizer.json",),
    )


def _static(config: LlamaSizes) -> Sizes:
    step_bytes = 4 * 2 * config.layers * config.kv_heads * config.head_dim
    return static_steps(config.positions, step_bytes)


def _embeds(config: LlamaSizes) -> Port:
    return Port(
        "embeds",
        "float32",
        ("batch", "sequence", config.width),
        "prompt vectors: tokens by backbone/embed, embeddings of other media by projection/linear",
    )


def _token_host(config: LlamaSizes) -> dict[str, object]:
    """Return how the host makes token ids, and when it stops."""
    return {
        "kind": "json-tokenizer",
        "asset": "tokenizer.json",
        "start": [config.begin],
        "end": list(config.end),
        "max_tokens": config.positions,
    }


def _embed_graph(name: str, source: LlamaForCausalLM, config: LlamaSizes) -> Graph:
    tokens = Port("tokens", "int64", ("batch", "sequence"), "token ids", host=_token_host(config))

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return {"tokens": rng.integers(0, config.vocabulary, tokens.sized(sizes))}

    return Graph(
        f"{name}/embed",
        _Embed(source),
        (tokens,),
        (_embeds(config),),
        sample,
        sizes={"batch": 1, "sequence": 3},
        dynamic=frozenset({"sequence"}),
        static={"sequence": 1},
    )


def _layers(name: str, config: LlamaSizes, graph: int) -> Repetition:
    """Return the equal layers of the backbone's ``graph``, by its place among the graphs."""

    def shortened(layers: int) -> Graph:
        with skeleton():
            return _backbone(name, replace(config, layers=layers)).graphs[graph]

    return Repetition("model.layers", config.layers, shortened)


def _decoder_graph(name: str, source: LlamaForCausalLM, config: LlamaSizes) -> Graph:
    embeds = _embeds(config)
    shape = ("batch", config.kv_heads, "past", config.head_dim)
    pasts = cache_ports("past", config.layers, shape, "steps before this call")
    grown = ("batch", config.kv_heads, "past + sequence", config.head_dim)
    places = replace(POSITIONS, host={"kind": "positions", "max_tokens": config.positions})
    logits = Port(
        "logits", "float32", ("batch", "sequence", config.vocabulary), "score of each token to come next"
    )
    hidden = Port(
        "hidden", "float32", ("batch", "sequence", config.width), "states after the final norm, for gen_dec"
    )

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        floats = sample_floats(rng, (embeds, *pasts), sizes)
        return {"embeds": floats.pop("embeds"), **sample_steps(sizes), **floats}

    return Graph(
        f"{name}/decoder",
        _Decoder(source, config),
        (embeds, places, MASK, *pasts),
        (
            logits,
            hidden,
            *cache_ports("present", config.layers, grown, "the past with the steps of this call"),
        ),
        sample,
        sizes={"batch": 1, "sequence": 3, "past": 5},
        dynamic=frozenset({"sequence", "past"}),
        static=_static(config),
        max_steps=config.positions,
        from_tokens=decoder_inputs,
        repeats=_layers(name, config, 1),
    )


def _model_graph(name: str, source: LlamaForCausalLM, config: LlamaSizes) -> Graph:
    inputs, outputs = llama_genai.ports(config, _token_host(config))

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return llama_genai.sample(rng, inputs, config.vocabulary, sizes)

    return Graph(
        f"{name}/model",
        _Model(source, config),
        inputs,
        outputs,
        sample,
        sizes={"batch": 1, "sequence": 3, "past": 5},
        dynamic=frozenset({"sequence", "past"}),
        static=_static(config),
        max_steps=config.positions,
        from_tokens=model_inputs,
        repeats=_layers(name, config, 2),
        dialect="genai",
    )


def _gen_dec(name: str, config: HeadSizes) -> Submodel:
    """Build ``gen_dec``. For pure generation it is the backbone's ``lm_head``: one state in, so no sequence axis."""
    head = nn.Linear(config.width, config.vocabulary, bias=False)
    source = nn.ModuleDict({"lm_head": head}).eval()
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tied else {}
    if tied:  # the weight is in the checkpoint under the table's name
        table = nn.Embedding(config.vocabulary, config.width)
        table.weight = head.weight
        source["model"] = nn.ModuleDict({"embed_tokens": table})
    hidden = Port("hidden", "float32", ("batch", config.width), "the last of the backbone's states")
    logits = Port("logits", "float32", ("batch", config.vocabulary), "score of each token to come next")

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return sample_floats(rng, (hidden,), sizes)

    graph = Graph(f"{name}/head", _Head(source), (hidden,), (logits,), sample)
    return Submodel(name, source, (graph,), LICENCE, ignored=r"model\..*", tied=tied)


def _projection(name: str, config: ProjectionSizes) -> Submodel:
    """Build ``projection``, which every task trains anew: it is stored with the adapter."""
    source = nn.ModuleDict({"linear": nn.Linear(config.embedding, config.width)}).eval()
    embedding = Port(
        "embedding",
        "float32",
        ("batch", config.embedding),
        "what an ImageBind encoder gave, brought to length 1",
    )
    prompt = Port(
        "prompt", "float32", ("batch", 1, config.width), "one vector for the media slot of the prompt"
    )

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return sample_floats(rng, (embedding,), sizes)

    graph = Graph(f"{name}/linear", _Projection(source), (embedding,), (prompt,), sample)
    return Submodel(name, source, (graph,), "as its trainer says")
