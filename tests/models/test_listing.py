"""The list of sub-models: m4c/models/__init__.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from m4c.errors import UsageError
from m4c.models import PRESETS, SUBMODELS, build, require_submodel
from m4c.skeleton import skeleton

LICENCES = (Path(__file__).parents[2] / "docs/licences.md").read_text("utf-8").splitlines()


def test_listing_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import m4c.models, sys; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", SUBMODELS)
def test_every_sub_model_builds(name: str) -> None:
    with skeleton():
        made = build(name, "m4-nano")
    assert made.name == name
    assert [row for row in LICENCES if f"`{name}`" in row and f"| {made.licence} |" in row]
    assert made.graphs
    assert all(graph.submodel == name for graph in made.graphs)
    assert len({graph.name for graph in made.graphs}) == len(made.graphs)
    for graph in made.graphs:
        assert graph.module.source is made.source
        ports = [port.name for port in (*graph.inputs, *graph.outputs)]
        assert len(set(ports)) == len(ports)
    state = made.source.state_dict()
    assert set(made.tied) | set(made.tied.values()) <= set(state)


def test_what_there_is_not() -> None:
    with pytest.raises(UsageError, match="there is no sub-model 'ears'") as caught:
        require_submodel("ears")
    assert "aud_i_enc" in caught.value.fix
    with pytest.raises(UsageError, match="there is no sub-model 'ears'"):
        build("ears", "m4")
    with pytest.raises(UsageError, match="there is no preset 'm5'") as caught:
        build("aud_i_enc", "m5")
    assert all(preset in caught.value.fix for preset in PRESETS)
