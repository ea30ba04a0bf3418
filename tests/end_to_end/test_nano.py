"""All of M4 in its small preset: every graph exported, run and compared, and the whole made of few operator types."""

import json
from pathlib import Path

import pytest

from m4c.bundle import read_manifest
from m4c.models import SUBMODELS
from tests.end_to_end.command import m4c

CANONICAL = [
    *(
        "Add",
        "ArgMax",
        "Concat",
        "Conv",
        "Cos",
        "Div",
        "Gather",
        "Gelu",
        "InstanceNormalization",
        "LayerNormalization",
    ),
    *(
        "LpNormalization",
        "MatMul",
        "Mul",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Sin",
        "Slice",
    ),
    *("Softmax", "Sqrt", "Tanh", "Transpose"),
]
"""What all of M4 is made of after canonicalization: 24 ONNX operator types, where the paper counts 39."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export everything, as the README's first command does."""
    out = tmp_path_factory.mktemp("nano") / "bundle"
    table = m4c("export", "-o", str(out))
    assert "tts_dec" in table
    return out


def test_every_submodel_is_there_and_agrees_with_eager_torch(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert [submodel.name for submodel in manifest.submodels] == list(SUBMODELS)
    assert len(manifest.graphs) == 19
    for graph in manifest.graphs:
        assert graph.verification.reference == "eager torch"
        assert graph.verification.max_relative_error < 1e-5, graph.name
        assert graph.fallback is None


def test_all_of_it_is_made_of_the_canonical_operators(bundle: Path) -> None:
    types = {operator for graph in read_manifest(bundle).graphs for operator in graph.operators}
    assert sorted(types) == CANONICAL


def test_it_verifies_itself_without_its_source(bundle: Path) -> None:
    figures = json.loads(m4c("verify", str(bundle), "--json"))
    assert len(figures["graphs"]) == 19


def test_speech_recognition_runs_on_it(bundle: Path) -> None:
    audio = Path(__file__).parent / "data" / "weather.wav"
    assert m4c("run", str(bundle), "--task", "T32", "--audio", str(audio)).endswith("\n")
