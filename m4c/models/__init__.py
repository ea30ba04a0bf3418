"""M4 itself: nine sub-models and the projection, each in every preset. Listing them imports no torch."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m4c.errors import UsageError

if TYPE_CHECKING:
    from m4c.models.graph import Submodel

PRESETS = {
    "m4-nano": "the same code and operators, a few million parameters in all: exports in a minute",
    "m4": "the paper's sizes: public checkpoints fit",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """One line about a sub-model, and the module that builds it."""

    module: str
    summary: str
    stated: bool = False
    """Whether a ``config.json`` beside the weights states the sizes."""


CACHED = "backbone"
"""The sub-model that options of the cache are for."""

SUBMODELS = {
    "img_enc": Listing("imagebind", "image to embedding: ImageBind's vision tower (ViT-H/14)"),
    "txt_enc": Listing("imagebind", "text to embedding: ImageBind's text tower"),
    "aud_b_enc": Listing("imagebind", "background sound to embedding: ImageBind's audio tower"),
    "aud_i_enc": Listing("whisper", "speech to text: Whisper tiny.en, encoder and decoder"),
    "imu_enc": Listing("imagebind", "motion to embedding: ImageBind's IMU tower"),
    "projection": Listing("llama", "embedding to a backbone prompt vector: one trainable linear map"),
    "backbone": Listing("llama", "LLaMA-7B with a key-value cache", stated=True),
    "gen_dec": Listing("llama", "backbone state to token scores: LLaMA's output layer", stated=True),
    "img_dec": Listing("stable_diffusion", "text to image: Stable Diffusion 1.x"),
    "tts_dec": Listing("tts", "phonemes to mel spectrogram: a transformer text-to-speech model"),
}


def require_submodel(name: str) -> Listing:
    """Return the listing of a sub-model.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in SUBMODELS:
        raise UsageError(f"there is no sub-model {name!r}", fix=f"choose from: {', '.join(SUBMODELS)}")
    return SUBMODELS[name]


def build(name: str, preset: str, weights: Path | None = None, context: int | None = None) -> "Submodel":
    """Build a sub-model of a preset. Inside :func:`m4c.skeleton.skeleton` its weights take no memory.

    Where ``weights`` is a folder whose ``config.json`` states the sizes, as LLaMA's does for ``backbone`` and ``gen_dec``,
    they are these and not the preset's. ``context`` shortens the most positions of ``backbone``, whichever they are.

    Raises:
        UsageError: if there is no such sub-model or preset, or ``context`` is longer than the model knows.
        CheckpointError: if the ``config.json`` is unreadable, of another model, or of sizes that no model has.
    """
    listing = require_submodel(name)
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}", fix=f"choose from: {', '.join(PRESETS)}")
    module: Any = importlib.import_module(f"m4c.models.{listing.module}")
    config = weights / "config.json" if weights is not None and listing.stated else None
    if config is not None and config.is_file():
        from m4c.models.llama_sizes import sizes_in

        sizes: Any = sizes_in(name, config)
    else:
        sizes = module.PRESETS[preset][name]
    if context is not None and name == CACHED:
        sizes = replace(sizes, context=context)
    submodel: Submodel = module.build(name, sizes)
    return submodel
