"""ImageBind's encoder as a torch module: one class for every modality.

stem → tokens → (LN) → blocks → head on one token → unit length → × scale. The parameters are named as in the
published checkpoint. Attention is spelled out over the packed projection, so that a captured graph is plain
matrix products, without the many forms of ``nn.MultiheadAttention``.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4c.models.attention import attend, join_heads, split_heads
from m4c.models.imagebind_stems import AudioStem, ImageStem, ImuStem, Stem, TextStem, TextTokens, stem_module

LN_EPS = 1e-6
"""Epsilon of every layer norm but the stems', which keep torch's 1e-5."""

MAX_SCALE = 100.0
"""Upper bound of the factor on the unit-length embedding, as in CLIP."""


@dataclass(frozen=True, slots=True)
class ImageBindConfig:
    """Sizes of one encoder; ``modality`` is the second segment of its checkpoint keys."""

    modality: str
    stem: Stem
    blocks: int
    width: int
    heads: int
    embedding: int = 1024
    norm_first: bool = False
    """Whether a layer norm comes before the first block (vision)."""
    bias_kv: bool = False
    """Whether attention appends one learned key and value (audio, IMU)."""
    scale: float | None = None
    """Factor on the unit-length embedding: learned from here for text, fixed for audio and IMU."""


class Attention(nn.Module):
    """Multi-head attention over a packed projection, with the parameters of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int, bias_kv: bool) -> None:
        """Take ``heads`` heads of ``width / heads``; ``bias_kv`` appends one learned key and value."""
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        if bias_kv:
            self.bias_k = nn.Parameter(torch.empty(1, 1, width))
            self.bias_v = nn.Parameter(torch.empty(1, 1, width))
        self.bias_kv = bias_kv
        self.out_proj = nn.Linear(width, width)

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Return ``x`` through the packed rows of queries (0), keys (1) or values (2)."""
        rows = slice(part * x.shape[2], (part + 1) * x.shape[2])
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend over ``x`` (batch, n, d); ``mask`` (1, 1, n, n) is added to the scores."""
        query, key, value = self._project(x, 0), self._project(x, 1), self._project(x, 2)
        if self.bias_kv:
            key = torch.cat([key, self.bias_k.expand(x.shape[0], -1, -1)], dim=1)
            value = torch.cat([value, self.bias_v.expand(x.shape[0], -1, -1)], dim=1)
        q, k, v = (split_heads(part, self.heads) for part in (query, key, value))
        projected: Tensor = self.out_proj(join_heads(attend(q, k, v, mask)))
        return projected


class _Mlp(nn.Module):
    """Two linear maps with the exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, bias_kv: bool) -> None:
        """Make one block of ``width``."""
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=LN_EPS)
        self.attn = Attention(width, heads, bias_kv)
        self.norm_2 = nn.LayerNorm(width, eps=LN_EPS)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the block's output for ``x`` (batch, n, d)."""
        x = x + self.attn(self.norm_1(x), mask)
        out: Tensor = x + self.mlp(self.norm_2(x))
        return out


class _Trunk(nn.Module):
    """The blocks, after a layer norm for vision."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        first = [nn.LayerNorm(config.width, eps=LN_EPS)] if config.norm_first else []
        self.pre_transformer_layer = nn.Sequential(*first)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.bias_kv) for _ in range(config.blocks)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Scale(nn.Module):
    """Multiplication by a factor stored as its logarithm: a parameter if learned, else a buffer."""

    log_logit_scale: Tensor

    def __init__(self, initial: float, learned: bool) -> None:
        super().__init__()
        log = torch.tensor(math.log(initial))
        if learned:
            self.log_logit_scale = nn.Parameter(log)
        else:
            self.register_buffer("log_logit_scale", log)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.exp(self.log_logit_scale).clamp(max=MAX_SCALE)


class _Normalize(nn.Module):
    """Division by the length of the last axis, spelled so that no broadcast is captured."""

    def forward(self, x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / length.clamp(min=1e-12)


def _head(config: ImageBindConfig) -> nn.Module:
    """Return LN and projection; the gaps are upstream's token pick and dropout, which hold no weight."""
    norm = nn.LayerNorm(config.width, eps=LN_EPS)
    project = nn.Linear(config.width, config.embedding, bias=False)
    match config.stem:
        case TextStem():
            return nn.Sequential(OrderedDict(proj=nn.Sequential(norm, project)))
        case ImuStem():
            return nn.Sequential(norm, nn.Identity(), nn.Identity(), project)
        case ImageStem() | AudioStem():
            return nn.Sequential(norm, nn.Identity(), project)


def _first(states: Tensor) -> Tensor:
    """Return the state (batch, width) of the class token, by a slice rather than a gather."""
    return states[:, :1].flatten(1)


class ImageBindEncoder(nn.Module):
    """One modality of ImageBind; its state dict is that modality's part of the published checkpoint."""

    def __init__(self, config: ImageBindConfig) -> None:
        """Make the encoder; parameters of ImageBind's own kinds are left unset."""
        super().__init__()
        self.config = config
        key, scale = config.modality, config.scale
        post: list[nn.Module] = [_Normalize()]
        if scale is not None:
            post.append(_Scale(scale, learned=isinstance(config.stem, TextStem)))
        self.modality_preprocessors = nn.ModuleDict({key: stem_module(config.stem, config.width)})
        self.modality_trunks = nn.ModuleDict({key: _Trunk(config)})
        self.modality_heads = nn.ModuleDict({key: _head(config)})
        self.modality_postprocessors = nn.ModuleDict({key: nn.Sequential(*post)})

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch; audio has its clips in the second axis, whose embeddings are averaged."""
        match self.config.stem:
            case TextStem(tokens=context):
                # Row of the last token in the flattened batch: one plain gather, no n-dimensional one.
                rows = torch.arange(x.shape[0]) * context + x.argmax(dim=-1)
                return self._head(self._states(x).flatten(0, 1).index_select(0, rows))
            case AudioStem(clips=clips):
                states = self._states(x.flatten(0, 1))
                return self._head(_first(states)).reshape(-1, clips, self.config.embedding).mean(dim=1)
            case ImageStem() | ImuStem():
                return self._head(_first(self._states(x)))

    def _states(self, x: Tensor) -> Tensor:
        """Return the states (batch, tokens, width) after the last block."""
        before = self.modality_preprocessors[self.config.modality]
        mask = before.causal if isinstance(before, TextTokens) else None
        states: Tensor = self.modality_trunks[self.config.modality](before(x), mask)
        return states

    def _head(self, picked: Tensor) -> Tensor:
        """Return the embeddings (batch, embedding) of one state (batch, width) each."""
        projected = self.modality_heads[self.config.modality](picked)
        embedding: Tensor = self.modality_postprocessors[self.config.modality](projected)
        return embedding
