"""Stable Diffusion 1.x as torch modules: diffusers' and transformers' own, side by side in one source.

The three are children of one module, under the names of their folders in a published checkpoint. Attention of all
of them is captured as plain matrix products.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from m4c.host.masks import causal_mask
from m4c.models.attention import attend, join_heads, split_heads
from m4c.models.clip_tokens import ClipTokens


@dataclass(frozen=True, slots=True)
class TextSizes:
    """Sizes of the text encoder. Defaults: the text tower of CLIP ViT-L/14."""

    words: ClipTokens
    width: int = 768
    layers: int = 12
    heads: int = 12
    ffn: int = 3072


@dataclass(frozen=True, slots=True)
class UNetSizes:
    """Sizes of the U-Net: every level but the last has cross-attention. Defaults: SD 1.x."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    heads: int = 8
    groups: int = 32


@dataclass(frozen=True, slots=True)
class VaeSizes:
    """Sizes of the VAE: every level is half as large as the one before. Defaults: SD 1.x."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32


@dataclass(frozen=True, slots=True)
class DiffusionConfig:
    """Sizes of one Stable Diffusion; ``latent`` is the side of the latent image."""

    text: TextSizes
    latent: int = 64
    latent_channels: int = 4
    scaling: float = 0.18215
    """Factor from the VAE's latents to the unit-variance latents of the U-Net."""
    unet: UNetSizes = UNetSizes()
    vae: VaeSizes = VaeSizes()

    @property
    def image(self) -> int:
        """Side of the image in pixels: each level of the VAE but the first halves it."""
        return self.latent << (len(self.vae.channels) - 1)


class Attend:
    """How diffusers' attention layers compute: the same plain products as every attention of M4.

    diffusers' own processors give the same numbers with more operators: torch's fused attention scales queries
    and keys apart, the older one adds a zero to all scores.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend over (batch, n, d), or over the pixels of (batch, d, height, width)."""
        x = hidden_states
        if hidden_states.dim() == 4:
            x = x.flatten(2)
            x = (x if attn.group_norm is None else attn.group_norm(x)).transpose(1, 2)
        seen = x if encoder_hidden_states is None else encoder_hidden_states
        parts = (attn.to_q(x), attn.to_k(seen), attn.to_v(seen))
        query, key, value = (split_heads(part, attn.heads) for part in parts)
        out: Tensor = attn.to_out[0](join_heads(attend(query, key, value, attention_mask)))
        if hidden_states.dim() == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        return out + hidden_states if attn.residual_connection else out


class StableDiffusion(nn.Module):
    """The three models under the names of their folders in a published checkpoint."""

    causal: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        """Build all three, with attention that is captured as plain matrix products."""
        super().__init__()
        self.unet = _unet(config)
        self.vae = _vae(config)
        self.text_encoder = _text_encoder(config.text)
        context = config.text.words.context
        self.register_buffer("causal", torch.from_numpy(causal_mask(context, 0)), persistent=False)


def _plain(model: Any) -> nn.Module:
    """Let every attention layer of a diffusers model compute by :class:`Attend`."""
    model.set_attn_processor(Attend())
    made: nn.Module = model
    return made


def _unet(config: DiffusionConfig) -> nn.Module:
    sizes, crossed = config.unet, len(config.unet.channels) - 1
    unet = UNet2DConditionModel(
        sample_size=config.latent,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * crossed + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * crossed,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        cross_attention_dim=config.text.width,
        attention_head_dim=sizes.heads,  # diffusers' historic name for the count of heads
        norm_num_groups=sizes.groups,
    )
    return _plain(unet)


def _vae(config: DiffusionConfig) -> nn.Module:
    sizes = config.vae
    vae = AutoencoderKL(
        latent_channels=config.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.channels),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.channels),
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        norm_num_groups=sizes.groups,
        sample_size=config.image,
        scaling_factor=config.scaling,
    )
    return _plain(vae)


def _text_encoder(sizes: TextSizes) -> nn.Module:
    encoder: nn.Module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=sizes.words.vocabulary,
            hidden_size=sizes.width,
            intermediate_size=sizes.ffn,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            max_position_embeddings=sizes.words.context,
            hidden_act="quick_gelu",
            bos_token_id=sizes.words.start,
            eos_token_id=sizes.words.end,
            pad_token_id=sizes.words.filler,
            attn_implementation="eager",
        )
    )
    return encoder
