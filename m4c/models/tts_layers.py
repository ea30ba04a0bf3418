"""The modules of fairseq's ``tts_transformer``, under the names that its checkpoints use.

Written afresh from the paper (Li et al., "Neural Speech Synthesis with Transformer Network") and the published names and
shapes. There is no dropout: most of it is off at inference anyway, and upstream's one exception, dropout of 0.5 in the
decoder's prenet at inference too, is left out because an artifact must give the same output each time.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.models.attention import attend, grow, join_heads, split_heads
from m4c.models.tts_sizes import PAD, TtsSizes

Cache = tuple[Tensor, Tensor]
"""Keys and values of one attention, (batch, heads, steps, head_dim) each."""


class Attention(nn.Module):
    """Multi-head attention with biases."""

    def __init__(self, width: int, heads: int) -> None:
        """Make four linear layers of ``width``."""
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def keys(self, x: Tensor) -> Cache:
        """Return the keys and values of ``x`` (batch, steps, width)."""
        return split_heads(self.k_proj(x), self.heads), split_heads(self.v_proj(x), self.heads)

    def forward(self, x: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """Attend from ``x`` (batch, steps, width) to ``cache``."""
        query = split_heads(self.q_proj(x), self.heads)
        mixed: Tensor = self.out_proj(join_heads(attend(query, *cache, mask)))
        return mixed


class FeedForward(nn.Module):
    """Names and sizes that encoder and decoder layers have in common; each is normalised before it runs."""

    def __init__(self, config: TtsSizes) -> None:
        """Make self-attention and the two linear layers."""
        super().__init__()
        self.self_attn = Attention(config.width, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.fc1, self.fc2 = nn.Linear(config.width, config.ffn), nn.Linear(config.ffn, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def feed(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, steps, width) with the two linear layers' output added."""
        added: Tensor = self.fc2(functional.relu(self.fc1(self.final_layer_norm(x))))
        return x + added


class EncoderLayer(FeedForward):
    """Self-attention over all phonemes, then the two linear layers."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return ``x`` (batch, length, width) after this layer."""
        normed = self.self_attn_layer_norm(x)
        return self.feed(x + self.self_attn(normed, self.self_attn.keys(normed), mask))


class DecoderLayer(FeedForward):
    """Self-attention with a cache, attention to the phonemes, then the two linear layers."""

    def __init__(self, config: TtsSizes) -> None:
        """Make the attention to the phonemes too."""
        super().__init__(config)
        self.encoder_attn = Attention(config.width, config.heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.width)

    def forward(
        self, x: Tensor, past: Cache, mask: Tensor, cross: Cache, cross_mask: Tensor
    ) -> tuple[Tensor, Cache]:
        """Return ``x`` (batch, sequence, width) after this layer, and the grown cache."""
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.keys(normed)
        present = grow(past[0], keys), grow(past[1], values)
        x = x + self.self_attn(normed, present, mask)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), cross, cross_mask)
        return self.feed(x), present


class Encoder(nn.Module):
    """Phonemes to states."""

    positions: Tensor

    def __init__(self, config: TtsSizes) -> None:
        """Make embedding, prenet and layers."""
        super().__init__()
        self.embed_tokens = nn.Embedding(config.symbols, config.width, padding_idx=PAD)
        self.prenet = nn.ModuleList(
            nn.Sequential(*convolution(config.width, config.width, config.kernel), nn.ReLU())
            for _ in range(config.prenet_convolutions)
        )
        self.prenet_proj = nn.Linear(config.width, config.width)
        self.pos_emb_alpha = nn.Parameter(torch.ones(1))
        self.register_buffer("positions", sinusoids(config.length, config.width), persistent=False)
        self.transformer_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, phonemes: Tensor, keep: Tensor, mask: Tensor) -> Tensor:
        """Encode ``phonemes`` (batch, length); ``keep`` is 1 for a phoneme and 0 for padding, (batch, 1, length)."""
        x = self.embed_tokens(phonemes).transpose(1, 2)
        for layer in self.prenet:
            x = layer(x * keep)
        x = self.prenet_proj(x.transpose(1, 2)) + self.pos_emb_alpha * self.positions[: phonemes.shape[1]]
        for layer in self.transformer_layers:
            x = layer(x, mask)
        states: Tensor = self.layer_norm(x)
        return states


class Prenet(nn.Module):
    """The bottleneck that each frame passes on its way into the decoder."""

    def __init__(self, config: TtsSizes) -> None:
        """Make ``prenet_layers`` linear layers."""
        super().__init__()
        widths = [config.features, *[config.prenet] * config.prenet_layers]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, narrow), nn.ReLU()) for wide, narrow in pairwise(widths)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Squeeze ``frames`` (batch, sequence, features) into (batch, sequence, prenet)."""
        for layer in self.layers:
            frames = layer(frames)
        return frames


class Postnet(nn.Module):
    """Convolutions over time that give the correction of a whole utterance."""

    def __init__(self, config: TtsSizes) -> None:
        """Make ``postnet_layers`` convolutions, all but the last with tanh."""
        super().__init__()
        inner = [config.postnet] * (config.postnet_layers - 1)
        widths = [config.features, *inner, config.features]
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                *convolution(widths[i], widths[i + 1], config.kernel),
                *([nn.Tanh()] if i < len(inner) else []),
            )
            for i in range(config.postnet_layers)
        )

    def forward(self, features: Tensor, keep: Tensor) -> Tensor:
        """Correct ``features`` (batch, steps, features); ``keep`` is 1 for a step and 0 for padding."""
        x = features.transpose(1, 2)
        for layer in self.convolutions:
            x = layer(x * keep)
        return x.transpose(1, 2)


class Decoder(nn.Module):
    """Frames so far to the next frames, and the postnet."""

    positions: Tensor

    def __init__(self, config: TtsSizes) -> None:
        """Make prenet, layers, outputs and postnet."""
        super().__init__()
        self.pos_emb_alpha = nn.Parameter(torch.ones(1))
        self.register_buffer("positions", sinusoids(config.max_steps, config.width), persistent=False)
        self.prenet = nn.Sequential(Prenet(config), nn.Linear(config.prenet, config.width))
        self.transformer_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)
        self.feat_proj = nn.Linear(config.width, config.features)
        self.eos_proj = nn.Linear(config.width, 1)
        self.postnet = Postnet(config)

    def forward(
        self, frames: Tensor, positions: Tensor, mask: Tensor, cross_mask: Tensor, caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return the next frames, the stop score and the grown caches.

        ``caches`` are the key and value pairs of self-attention, then those of cross-attention.
        """
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        pasts, crosses = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
        x: Tensor = self.prenet(frames)
        x = x + self.pos_emb_alpha * functional.embedding(positions, self.positions)
        presents: list[Tensor] = []
        for layer, past, cross in zip(self.transformer_layers, pasts, crosses, strict=True):
            x, present = layer(x, past, mask, cross, cross_mask)
            presents += present
        x = self.layer_norm(x)
        return (self.feat_proj(x), self.eos_proj(x), *presents)


class TtsTransformer(nn.Module):
    """All of it; its state dict has the names of the ``model`` entry of a fairseq checkpoint."""

    def __init__(self, config: TtsSizes) -> None:
        """Make encoder and decoder."""
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)


def convolution(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, nn.Module]:
    """Return a convolution over time that keeps the length, and its batch normalisation."""
    return nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm1d(outputs)


def sinusoids(steps: int, width: int) -> Tensor:
    """Return the fixed positions (steps, width): sines in the first half, cosines in the second.

    Row 0 is the position after the padding id: upstream numbers positions from there.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(PAD + 1, PAD + 1 + steps, dtype=torch.float32)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)
