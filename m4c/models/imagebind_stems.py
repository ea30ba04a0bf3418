"""ImageBind's stems: how an image, a text, a sound or a motion becomes tokens with positions.

Each stem is a dataclass of sizes and a module whose parameters are named as in the published checkpoint. Every
parameter is read by the ``forward`` of the module that owns it, so that weights can be loaded a module at a time.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4c.host.masks import causal_mask
from m4c.models.clip_tokens import ClipTokens


@dataclass(frozen=True, slots=True)
class ImageStem:
    """Square patches of an image; the checkpoint's kernel spans ``frames`` frames, a still image repeated."""

    size: int = 224
    patch: int = 14
    frames: int = 2

    @property
    def tokens(self) -> int:
        """Count of tokens, class token included."""
        return 1 + (self.size // self.patch) ** 2


@dataclass(frozen=True, slots=True)
class TextStem:
    """Byte-pair tokens; the head reads the state of the end token, whose id is the largest."""

    words: ClipTokens

    @property
    def tokens(self) -> int:
        """Count of tokens; text has no class token."""
        return self.words.context


@dataclass(frozen=True, slots=True)
class AudioStem:
    """Overlapping square patches of the log-mel spectrogram of each of ``clips`` clips."""

    clips: int = 3
    bins: int = 128
    frames: int = 204
    kernel: int = 16
    stride: int = 10

    @property
    def tokens(self) -> int:
        """Count of tokens a clip, class token included."""
        return 1 + math.prod((d - self.kernel) // self.stride + 1 for d in (self.bins, self.frames))


@dataclass(frozen=True, slots=True)
class ImuStem:
    """Windows of motion samples, without overlap."""

    channels: int = 6
    samples: int = 2000
    window: int = 8

    @property
    def tokens(self) -> int:
        """Count of tokens, class token included."""
        return 1 + self.samples // self.window


Stem = ImageStem | TextStem | AudioStem | ImuStem


class _StillConv(nn.Module):
    """A convolution over time and space, of an image that stands still."""

    def __init__(self, stem: ImageStem, width: int) -> None:
        super().__init__()
        self.patch = stem.patch
        self.weight = nn.Parameter(torch.empty(width, 3, stem.frames, stem.patch, stem.patch))

    def forward(self, image: Tensor) -> Tensor:
        # A still image is one frame repeated: convolving it over time is convolving with the kernel's sum.
        return F.conv2d(image, self.weight.sum(dim=2), stride=self.patch)


class _Positions(nn.Module):
    """Learned positions under the name that vision and audio give them."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.pos_embed


def _with_class_token(cls_token: Tensor, tokens: Tensor) -> Tensor:
    """Return ``tokens`` (batch, n, d) with the class token in front."""
    return torch.cat([cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


class _ImageTokens(nn.Module):
    """Image (batch, 3, size, size) to tokens."""

    def __init__(self, stem: ImageStem, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        conv = nn.Sequential(nn.Identity(), _StillConv(stem, width))
        self.rgbt_stem = nn.ModuleDict({"proj": conv})
        self.pos_embedding_helper = _Positions(stem.tokens, width)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.rgbt_stem["proj"](image).flatten(2).transpose(1, 2)
        placed: Tensor = self.pos_embedding_helper(_with_class_token(self.cls_token, patches))
        return placed


class TextTokens(nn.Module):
    """Token ids (batch, n) to tokens."""

    mask: Tensor
    causal: Tensor

    def __init__(self, stem: TextStem, width: int) -> None:
        """Make the embedding, the positions, and the mask ``causal`` (1, 1, tokens, tokens)."""
        super().__init__()
        self.token_embedding = nn.Embedding(stem.words.vocabulary, width)
        self.pos_embed = nn.Parameter(torch.empty(1, stem.tokens, width))
        # The checkpoint's mask, with infinities, is kept for its key; the graph uses the finite one.
        self.register_buffer("mask", torch.full((stem.tokens, stem.tokens), -math.inf).triu(1))
        self.register_buffer("causal", torch.from_numpy(causal_mask(stem.tokens, 0)), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed ids (batch, tokens)."""
        embedded: Tensor = self.token_embedding(tokens) + self.pos_embed
        return embedded


class _AudioTokens(nn.Module):
    """Log-mel clips (batch, 1, bins, frames) to tokens."""

    def __init__(self, stem: AudioStem, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        conv = nn.Conv2d(1, width, stem.kernel, stem.stride, bias=False)
        self.rgbt_stem = nn.ModuleDict({"proj": conv, "norm_layer": nn.LayerNorm(width)})
        self.pos_embedding_helper = _Positions(stem.tokens, width)

    def forward(self, mel: Tensor) -> Tensor:
        patches = self.rgbt_stem["proj"](mel).flatten(2).transpose(1, 2)
        normed = self.rgbt_stem["norm_layer"](patches)
        placed: Tensor = self.pos_embedding_helper(_with_class_token(self.cls_token, normed))
        return placed


class _ImuTokens(nn.Module):
    """Motion samples (batch, channels, samples) to tokens."""

    def __init__(self, stem: ImuStem, width: int) -> None:
        super().__init__()
        self.window = stem.window
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, stem.tokens, width))
        proj = nn.Linear(stem.channels * stem.window, width, bias=False)
        self.imu_stem = nn.Sequential(OrderedDict(proj=proj, norm_layer=nn.LayerNorm(width)))

    def forward(self, imu: Tensor) -> Tensor:
        # The windows do not overlap, so cutting them is a reshape; each is channel-major.
        windows = imu.reshape(*imu.shape[:2], -1, self.window).transpose(1, 2).flatten(2)
        return _with_class_token(self.cls_token, self.imu_stem(windows)) + self.pos_embed


def stem_module(stem: Stem, width: int) -> nn.Module:
    """Return the module that turns the input of ``stem`` into tokens (batch, tokens, width)."""
    match stem:
        case ImageStem():
            return _ImageTokens(stem, width)
        case TextStem():
            return TextTokens(stem, width)
        case AudioStem():
            return _AudioTokens(stem, width)
        case ImuStem():
            return _ImuTokens(stem, width)
