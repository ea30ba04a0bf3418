"""The base that adapters here are for."""

from dataclasses import replace
from pathlib import Path

import pytest

from m4c.checkpoints import open_checkpoint
from m4c.match import match
from m4c.models import build
from m4c.models.graph import Submodel
from m4c.skeleton import skeleton
from m4c.weights import Recipe
from tests import tiny_backbone

SIZES = replace(tiny_backbone.SIZES, width=64, ffn=176, head_dim=16)
"""Narrower than m4-nano, for many exports."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small LLaMA."""
    folder = tmp_path_factory.mktemp("adapted") / "base"
    tiny_backbone.save(folder, SIZES)
    return folder


@pytest.fixture(scope="session")
def backbone(checkpoint: Path) -> Submodel:
    """Return the sub-model of that LLaMA, without weights."""
    with skeleton():
        return build("backbone", "m4-nano", checkpoint)


@pytest.fixture(scope="session")
def weights(backbone: Submodel, checkpoint: Path) -> dict[str, Recipe]:
    """Return its weights."""
    return match(backbone, open_checkpoint(checkpoint))  # type: ignore[return-value]
