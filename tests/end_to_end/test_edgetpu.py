"""Sub-models for the Edge TPU: every tensor of every file is an integer, and every operator is one that it runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as tfl

from m4c.bundle import read_manifest
from m4c.targets.emit_tflite import read_ports
from m4c.targets.legality import Illegal, verdicts
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite
from tests.bundles import require_schema
from tests.end_to_end.channels import check
from tests.end_to_end.command import m4c

INTEGERS = {tfl.TensorType.INT8, tfl.TensorType.INT32}
"""Activations, weights and their indices, shapes and biases. Nothing is excepted: there is no FLOAT32 tensor."""

LEAST_DB = {
    "img_dec/vae_encoder": 20.0,
    "imu_enc/encoder": 24.0,
    "txt_enc/encoder": 19.0,
    "backbone/decoder": 20.0,
}
"""SQNR of random weights on random numbers."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export graphs of every kind: convolutions, norms, attention with and without masks and caches, a batch."""
    out = tmp_path_factory.mktemp("edgetpu") / "bundle"
    random = ("--random-weights", "0", "--calibration", "random")
    m4c("export", *LEAST_DB, "--target", "edgetpu", *random, "-o", str(out))
    return out


def tensors(path: Path) -> Iterator[Any]:
    model = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(path.read_bytes(), 0))
    for graph in model.subgraphs:
        yield from graph.tensors


@pytest.mark.parametrize("name", LEAST_DB)
def test_every_tensor_is_an_integer(bundle: Path, name: str) -> None:
    found = {tensor.type: tensor.name.decode() for tensor in tensors(bundle / f"graphs/{name}.tflite")}
    assert set(found) == INTEGERS, found


@pytest.mark.parametrize("name", LEAST_DB)
def test_every_operator_runs_there(bundle: Path, name: str) -> None:
    (graph,) = read_tflite(bundle / f"graphs/{name}.tflite")
    judged = verdicts(graph, load_target("edgetpu"))
    assert [str(v.reasons[0]) for v in judged if isinstance(v, Illegal)] == []
    assert len(judged) > 100


def test_the_host_looks_up(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    host = manifest.graph("txt_enc/encoder").host
    assert host is not None
    assert host.inputs == ("tokens",)
    assert set(host.operators) == {"ADD", "ARG_MAX", "GATHER"}
    own = {port.name for port in read_ports(bundle / manifest.graph("txt_enc/encoder").file.path).inputs}
    assert {port.name for port in host.outputs} == own
    assert manifest.graph("imu_enc/encoder").host is None
    require_schema(bundle)


@pytest.mark.parametrize("name", LEAST_DB)
def test_it_follows_eager_torch(bundle: Path, name: str) -> None:
    graph = read_manifest(bundle).graph(name)
    assert (graph.fallback, graph.precision) == (None, "int8")
    assert graph.calibration is not None
    assert graph.calibration.startswith("random numbers (32 samples)")
    assert graph.verification.sqnr_db is not None
    assert graph.verification.sqnr_db >= LEAST_DB[name]


def test_nothing_is_transposed_between_convolutions(bundle: Path) -> None:
    """Of the encoder's 25 convolutions, 6 are linear layers and weights of heads."""
    check((bundle / "graphs/img_dec/vae_encoder.tflite").read_bytes(), 25)
