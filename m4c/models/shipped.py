"""The weights that m4c carries: ``m4-nano``, trained by :mod:`m4c.models.training`; the model card is docs/model_card.md."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The folder that has one folder for each sub-model; it is a checkpoint like any other."""

FILE = "model.safetensors"

LICENCE = "Apache-2.0"
"""Of the trained weights, whose data allows it."""


def folder(submodel: str) -> Path:
    """Return where the weights of a sub-model, and the files that its host needs, are."""
    return WEIGHTS / submodel


def default(preset: str, weights: Path | None, seed: int | None) -> Path | None:
    """Return the weights of an export whose user may have given others, or a ``seed`` for random ones."""
    return WEIGHTS if preset == "m4-nano" and weights is None and seed is None else weights
