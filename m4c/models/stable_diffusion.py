"""``img_dec``: Stable Diffusion 1.x, in four graphs.

The text encoder runs once a prompt, the U-Net once a step of the sampler, which is host work, and the VAE decoder
once an image; the VAE encoder serves image-to-image tasks. Licence of the published weights: CreativeML Open RAIL-M.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from m4c.models.attention import sample_floats
from m4c.models.clip_tokens import ClipTokens
from m4c.models.graph import Graph, GraphModule, Port, Sizes, Submodel
from m4c.models.stable_diffusion_model import DiffusionConfig, StableDiffusion, TextSizes, UNetSizes, VaeSizes

TRAIN_STEPS = 1000
"""Count of the steps of the diffusion that Stable Diffusion was trained on."""

MERGES = "tokenizer/merges.txt"
"""The list of CLIP's byte-pair merges in a published checkpoint's folder."""

PRESETS: Mapping[str, Mapping[str, DiffusionConfig]] = {
    "m4": {"img_dec": DiffusionConfig(TextSizes(ClipTokens(MERGES, pad=None)))},
    "m4-nano": {
        "img_dec": DiffusionConfig(
            TextSizes(ClipTokens(None, 258, 32, pad=None), width=64, layers=2, heads=4, ffn=128),
            latent=8,
            unet=UNetSizes((32, 32, 64, 64), layers=1, heads=4, groups=8),
            vae=VaeSizes((16, 16, 32, 32), layers=1, groups=8),
        )
    },
}
"""Sizes of Stable Diffusion 1.x as published, and the same model small."""

RENAMES = (
    (r"^text_encoder\.text_model\.", "text_encoder."),
    (r"^(vae\..*attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"^(vae\..*attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"^(vae\..*attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"^(vae\..*attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
"""From the names in published files, where transformers nested the text tower and diffusers called attention otherwise."""


class _Text(GraphModule):
    """Prompt to text states."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode ``tokens`` (batch, context) into states (batch, context, width)."""
        # A mask of four dimensions is taken as it is; without one, it is computed in the graph.
        out = self.source.text_encoder(input_ids=tokens, attention_mask=self.source.causal)
        states: Tensor = out.last_hidden_state
        return states


class _UNet(GraphModule):
    """One step of the sampler: the noise in a latent image."""

    def forward(self, latent: Tensor, step: Tensor, states: Tensor) -> Tensor:
        """Predict the noise in ``latent`` (batch, 4, side, side) at ``step`` (batch,), given the text."""
        noise: Tensor = self.source.unet(latent, step, states, return_dict=False)[0]
        return noise


class _VaeDecoder(GraphModule):
    """Latent image to image."""

    def forward(self, latent: Tensor) -> Tensor:
        """Decode ``latent`` (batch, 4, side, side) into an image (batch, 3, 8 side, 8 side)."""
        image: Tensor = self.source.vae.decode(latent, return_dict=False)[0]
        return image


class _VaeEncoder(GraphModule):
    """Image to latent image."""

    def forward(self, image: Tensor) -> Tensor:
        """Encode ``image`` (batch, 3, 8 side, 8 side) into the posterior's mean (batch, 4, side, side)."""
        vae = self.source.vae
        moments: Tensor = vae.quant_conv(vae.encoder(image))  # mean, then logarithm of the variance
        return moments[:, : vae.config.latent_channels]


def build(name: str, config: DiffusionConfig) -> Submodel:
    """Build ``img_dec``: graphs ``text``, ``unet``, ``vae_decoder`` and ``vae_encoder``."""
    source = StableDiffusion(config).eval()
    return Submodel(
        name=name,
        source=source,
        graphs=(
            _text_graph(name, source, config),
            _unet_graph(name, source, config),
            _vae_decoder_graph(name, source, config),
            _vae_encoder_graph(name, source, config),
        ),
        licence="CreativeML-OpenRAIL-M (Stable Diffusion 1.x)",
        renames=RENAMES,
        ignored=r"^text_encoder\.(text_model\.)?embeddings\.position_ids$",
        assets=config.text.words.assets,
    )


def _states(config: DiffusionConfig) -> Port:
    shape = ("batch", config.text.words.context, config.text.width)
    return Port("states", "float32", shape, "what the text encoder made of each token of the prompt")


def _latent(config: DiffusionConfig, meaning: str, host: Mapping[str, object] | None = None) -> Port:
    shape = ("batch", config.latent_channels, config.latent, config.latent)
    return Port("latent", "float32", shape, meaning, host=host or {})


def _image(config: DiffusionConfig, meaning: str, host: Mapping[str, object]) -> Port:
    return Port("image", "float32", ("batch", 3, config.image, config.image), meaning, host=host)


def _text_graph(name: str, source: nn.Module, config: DiffusionConfig) -> Graph:
    words = config.text.words

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return {"tokens": words.texts(rng, sizes["batch"])}

    return Graph(f"{name}/text", _Text(source), (words.port,), (_states(config),), sample)


def _unet_graph(name: str, source: nn.Module, config: DiffusionConfig) -> Graph:
    latent = _latent(config, "noisy latent image of unit variance", _scheduler(config))
    # Float, although the sampler counts: a cast less in the graph, and samplers may step between the integers, which
    # an artifact in integers rounds.
    step = Port(
        "step",
        "float32",
        ("batch",),
        f"step of the diffusion, 0 (clean) to {TRAIN_STEPS - 1} (noise)",
        whole=(0, TRAIN_STEPS - 1),
    )
    states = _states(config)
    noise = Port("noise", "float32", latent.shape, "the noise that the latent image holds")

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        steps = rng.integers(0, TRAIN_STEPS, step.sized(sizes)).astype(np.float32)
        return {
            **sample_floats(rng, (latent,), sizes),
            "step": steps,
            **sample_floats(rng, (states,), sizes),
        }

    return Graph(f"{name}/unet", _UNet(source), (latent, step, states), (noise,), sample)


def _scheduler(config: DiffusionConfig) -> dict[str, object]:
    """Return what the host's sampler must know: the noise schedule that SD 1.x was trained with."""
    return {
        "kind": "diffusion-latent",
        "train_steps": TRAIN_STEPS,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction": "epsilon",
        "scaling": config.scaling,
    }


def _vae_decoder_graph(name: str, source: nn.Module, config: DiffusionConfig) -> Graph:
    latent = _latent(config, f"latent image of the sampler, divided by {config.scaling}")
    image = _image(config, "RGB image, -1 = black, 1 = full", {"kind": "image", "range": [-1.0, 1.0]})

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        return sample_floats(rng, (latent,), sizes)

    return Graph(f"{name}/vae_decoder", _VaeDecoder(source), (latent,), (image,), sample)


def _vae_encoder_graph(name: str, source: nn.Module, config: DiffusionConfig) -> Graph:
    host = {"kind": "image", "size": config.image, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    image = _image(config, "RGB image, -1 = black, 1 = full", host)
    latent = _latent(config, f"mean of the latent image; times {config.scaling} it is the sampler's")

    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        # Photographs fill the range evenly enough; nothing outside it occurs.
        return {"image": rng.uniform(-1, 1, image.sized(sizes)).astype(np.float32)}

    return Graph(f"{name}/vae_encoder", _VaeEncoder(source), (image,), (latent,), sample)
