"""M4's encoders on Ethos-U and Hexagon: every operator runs there, in one partition, by table and by compilers."""

import os
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

import m4c.capture
from m4c.bundle import read_manifest
from m4c.models.graph import Graph
from m4c.operator_reports import vela
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import Placement, place
from m4c.operator_reports.qnn import PYTHON
from m4c.operator_reports.qnn import compiled as by_qnn
from m4c.progress import Silent
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite
from tests.benchmarks.blocks import BLOCKS, written
from tests.end_to_end.command import m4c as command

ETHOS = ("ethos-u55", "ethos-u65", "ethos-u85")
ENCODERS = ("img_enc", "txt_enc", "aud_b_enc", "aud_i_enc/encoder", "imu_enc")
LEAST_DB = 25.0
"""SQNR of the image encoder, random weights on random numbers; it is 28."""

vela_is_there = pytest.mark.skipif(shutil.which("vela") is None, reason="Vela is an optional program")
qnn_is_there = pytest.mark.skipif(PYTHON not in os.environ, reason="QNN is optional")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_are_one_partition_by_table(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight is made; the encoder is captured once for all targets."""
    original, captured = m4c.capture.capture, dict[str, ir.Model]()

    def capture(graph: Graph) -> ir.Model:
        if graph.name not in captured:
            captured[graph.name] = original(graph)
        return captured[graph.name].clone()

    monkeypatch.setattr(m4c.capture, "capture", capture)
    for target in (ETHOS[0], "qualcomm-htp"):
        (found,) = judged(encoder, load_target(target), Silent(), jobs=1)
        assert isinstance(found, Placement)
        others = ETHOS[1:] if target == ETHOS[0] else ()  # they have its rewrites, so its graphs
        for one in (found, *(place(found.graph, load_target(other)) for other in others)):
            assert [cause.reason.text for cause in one.causes] == [], one.target.name
            assert (one.outcome, len(one.cut.delegated)) == ("whole", 1), one.target.name
        assert len(found.graph.nodes) > 50


def test_the_three_have_the_same_rewrites() -> None:
    assert len({load_target(name).rewrites("tflite", "int8") for name in ETHOS}) == 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the encoder whose output is divided by its length."""
    out = tmp_path_factory.mktemp("npu") / "bundle"
    command(
        "export",
        "img_enc",
        "--random-weights",
        "0",
        "--target",
        "ethos-u55",
        "--calibration",
        "random",
        "-o",
        str(out),
    )
    return out


def test_a_trained_class_token_far_shorter_than_patches_is_not_rounded_to_nothing(tmp_path: Path) -> None:
    """It is 15.6 dB; with the token joined in the scale of the patches, it is 9.1 dB."""
    command("export", "img_enc", "--target", "ethos-u55", "--calibration", "random", "-o", str(tmp_path))
    sqnr = read_manifest(tmp_path).graph("img_enc/encoder").verification.sqnr_db
    assert sqnr is not None
    assert sqnr >= 14


def test_an_export_is_whole_and_follows_eager_torch(bundle: Path) -> None:
    record = read_manifest(bundle).graph("img_enc/encoder")
    assert record.fallback is None
    assert record.verification.sqnr_db is not None
    assert record.verification.sqnr_db >= LEAST_DB
    (graph,) = read_tflite(bundle / record.file.path)
    for target in ETHOS:
        assert place(graph, load_target(target)).outcome == "whole"


@vela_is_there
@pytest.mark.parametrize("target", ETHOS)
def test_vela_leaves_nothing_of_it_to_the_cpu(bundle: Path, target: str) -> None:
    (found,) = vela.compiled(bundle / "graphs/img_enc/encoder.tflite", load_target(target))
    assert (found.evidence, found.outcome, len(found.cut.delegated)) == ("compiled", "whole", 1)


@pytest.mark.parametrize(("name", "before"), [("RMS norm", "whole"), ("norm of clips", "split")])
def test_what_was_split_is_whole(name: str, before: str, tmp_path: Path) -> None:
    """An RMS norm in int8 is a length for every target."""
    target = load_target("ethos-u55")
    for rewrites, outcome in ((frozenset[str](), before), (target.runtimes["tflite"].rewrites, "whole")):
        (graph,) = read_tflite(written(BLOCKS[name], tmp_path / f"{outcome}.tflite", rewrites))
        assert place(graph, target).outcome == outcome


@vela_is_there
@pytest.mark.parametrize("name", BLOCKS)
def test_vela_takes_every_block_whole(name: str, tmp_path: Path) -> None:
    target = load_target("ethos-u55")
    path = written(BLOCKS[name], tmp_path / "block.tflite", target.runtimes["tflite"].rewrites)
    (found,) = vela.compiled(path, target)
    assert (found.outcome, len(found.cut.delegated)) == ("whole", 1)


@qnn_is_there
@pytest.mark.parametrize("name", ["attention", "RMS norm", "convolution, norm, SiLU, residual"])
def test_qnn_takes_blocks_whole_with_the_conversions_at_their_ends(name: str, tmp_path: Path) -> None:
    (found,) = by_qnn(written(BLOCKS[name], tmp_path / "block.onnx"), load_target("qualcomm-htp"))
    assert (found.outcome, len(found.cut.delegated)) == ("whole", 1)
