"""The driver: what becomes of a request, in the artifacts and in the record of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from m4c import __version__
from m4c.bundle import Manifest, read_manifest
from m4c.compile import TOOLS, compile_bundle
from m4c.errors import NumbersError, UnsupportedError, UsageError
from m4c.numerics import TOLERANCE
from m4c.operator_reports.covered import recorded
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import Placement
from m4c.passes import OBSERVERS
from m4c.progress import Silent
from m4c.request import Request
from m4c.runners import open_runner
from m4c.targets import emit_onnx
from m4c.targets.profile import load_target
from tests.test_parallel import Heard

CPU, TPU = load_target("cpu"), load_target("edgetpu")
DYNAMIC = '<ir_version: 10, opset_import: ["" : 20]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu(x) }'
STATIC = DYNAMIC.replace("[n, 4]", "[2, 4]")


def compiled(request: Request, out: Path) -> Manifest:
    return compile_bundle(request, out, Silent())


def onnx_file(folder: Path, text: str, name: str = "net.onnx") -> Path:
    onnx.save(onnx.parser.parse_model(text), folder / name)
    return folder / name


def test_the_record_of_a_float_bundle(float_bundle: Path) -> None:
    manifest = read_manifest(float_bundle)
    assert (manifest.preset, manifest.target, manifest.routes) == ("m4-nano", "cpu", {})
    assert manifest.tools["m4c"] == __version__
    assert set(manifest.tools) == {"m4c", *TOOLS}
    assert [s.name for s in manifest.submodels] == ["projection", "gen_dec"]
    graph = manifest.graph("gen_dec/head")
    assert (graph.format, graph.precision, graph.processor) == ("onnx", "float32", "cpu")
    assert (graph.fallback, graph.calibration) == (None, None)
    assert graph.pipeline.startswith("simplify | canonicalize")
    assert graph.operators == {"MatMul": 1}
    assert graph.inputs[0].name == "hidden"
    assert graph.inputs[0].shape[0] == 1
    assert graph.inputs[0].quantization is None
    assert graph.verification.reference == "eager torch"
    assert graph.verification.max_relative_error <= TOLERANCE["float32"]


def test_the_record_of_an_int8_bundle(int8_bundle: Path) -> None:
    graph = read_manifest(int8_bundle).graph("projection/linear")
    assert (graph.format, graph.precision, graph.processor) == ("tflite", "int8", "edgetpu")
    assert graph.calibration is not None
    assert "random" in graph.calibration
    assert graph.verification.inputs == "samples that were not calibrated on"
    assert graph.verification.allowed == "SQNR of at least 10 dB"
    facts = graph.inputs[0].quantization
    assert facts is not None
    assert set(facts) == {"dtype", "scale", "zero_point"}


def test_the_observer_is_that_of_the_precision_or_the_one_asked_for(
    int8_bundle: Path, tmp_path: Path
) -> None:
    graph = read_manifest(int8_bundle).graph("projection/linear")
    assert f"calibrate{{observer={OBSERVERS['int8']},enough=10000}}" in graph.pipeline
    asked = Request(target=TPU, submodels=("projection",), calibration="random", observer="entropy")
    graph = compiled(asked, tmp_path / "out").graph("projection/linear")
    assert "calibrate{observer=entropy,enough=10000}" in graph.pipeline


def test_only_the_graphs_that_are_named(tmp_path: Path) -> None:
    manifest = compiled(Request(target=CPU, submodels=("backbone/embed",)), tmp_path / "out")
    assert [graph.name for graph in manifest.graphs] == ["backbone/embed"]


def test_weights_of_a_checkpoint_are_in_the_artifact(tmp_path: Path, float_bundle: Path) -> None:
    shape = read_manifest(float_bundle).graph("gen_dec/head")
    rows, columns = int(shape.outputs[0].shape[-1]), int(shape.inputs[0].shape[-1])
    weights = np.random.default_rng(5).standard_normal((rows, columns)).astype(np.float32)
    (tmp_path / "w" / "gen_dec").mkdir(parents=True)
    save_file({"lm_head.weight": weights}, tmp_path / "w" / "gen_dec" / "model.safetensors")
    request = Request(target=CPU, submodels=("gen_dec",), weights=tmp_path / "w")
    manifest = compiled(request, tmp_path / "out")
    assert manifest.submodel("gen_dec").weights == "checkpoint"
    assert manifest.submodel("gen_dec").licence != "random weights: no licence"
    x = np.random.default_rng(6).standard_normal((1, columns)).astype(np.float32)
    runner = open_runner(tmp_path / "out" / manifest.graph("gen_dec/head").file.path)
    np.testing.assert_allclose(runner.run({"hidden": x})["logits"], x @ weights.T, rtol=1e-4, atol=1e-4)


def test_other_seeds_are_other_weights(float_bundle: Path, tmp_path: Path) -> None:
    manifest = compiled(Request(target=CPU, submodels=("gen_dec",), seed=1), tmp_path / "out")
    (mine,), (usual,) = (
        manifest.submodel("gen_dec").files,
        read_manifest(float_bundle).submodel("gen_dec").files,
    )
    assert mine.sha256 != usual.sha256
    assert manifest.submodel("gen_dec").weights == "random, seed 1"


def test_an_onnx_file(tmp_path: Path) -> None:
    manifest = compiled(
        Request(target=CPU, model=onnx_file(tmp_path, DYNAMIC, "my.net.onnx")), tmp_path / "out"
    )
    assert manifest.preset is None
    graph = manifest.graph("my.net/my.net")
    assert graph.file.path == "graphs/my.net/my.net.onnx"
    assert graph.inputs[0].shape == ("n", 4)
    assert graph.verification.reference == "ONNX Runtime on the source file"
    assert graph.verification.sqnr_db is None
    x = np.array([[-1, 2, -3, 4]], np.float32)
    made = open_runner(tmp_path / "out" / graph.file.path).run({"x": x})
    np.testing.assert_array_equal(made["y"], np.maximum(x, 0))


def test_a_graph_that_the_target_cannot_have_falls_back_with_the_reason(tmp_path: Path) -> None:
    request = Request(target=TPU, model=onnx_file(tmp_path, DYNAMIC), calibration="random")
    (graph,) = compiled(request, tmp_path / "out").graphs
    assert (graph.format, graph.precision, graph.processor) == ("onnx", "float32", "cpu")
    assert graph.fallback == "n change from call to call, edgetpu has static shapes"


def test_an_operator_that_the_target_lacks_falls_back_with_the_reason(tmp_path: Path) -> None:
    text = STATIC.replace("Relu(x)", "Asinh(x)")
    request = Request(target=CPU, format="tflite", fallback="cpu", model=onnx_file(tmp_path, text))
    (graph,) = compiled(request, tmp_path / "out").graphs
    assert graph.format == "onnx"
    assert graph.fallback is not None
    assert "Asinh" in graph.fallback
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert not any(name.endswith(".tflite") for name in files)


@pytest.mark.parametrize("text", [DYNAMIC, STATIC.replace("Relu(x)", "Asinh(x)")])
def test_a_fallback_that_is_not_allowed_is_an_error(tmp_path: Path, text: str) -> None:
    request = Request(target=CPU, format="tflite", model=onnx_file(tmp_path, text))
    with pytest.raises(UnsupportedError) as caught:
        compiled(request, tmp_path / "out")
    assert caught.value.exit_code == 3
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


PARTLY = STATIC.replace("y = Relu(x)", "h = Relu(x) y = LogSoftmax(h)")
"""XNNPACK takes the first of its operators alone."""


def test_coverage_is_recorded_as_a_report_counts_it(tmp_path: Path) -> None:
    target = load_target("xnnpack")
    out = tmp_path / "out"
    (graph,) = compiled(Request(target=target, model=onnx_file(tmp_path, PARTLY)), out).graphs
    found = graph.coverage
    assert found is not None
    assert (graph.processor, found.outcome, found.partitions) == ("xnnpack", "split", 1)
    assert (found.nodes.all, found.nodes.legal, found.nodes.delegated) == (2, 1, 1)
    assert found.evidence == "table"
    assert found.upper_bound
    assert found.first_break is not None
    assert (found.first_break.operator, found.first_break.node) == ("LOG_SOFTMAX", 1)
    (reported,) = judged(str(out), target, Silent())
    assert isinstance(reported, Placement)
    assert recorded(reported) == found == read_manifest(out).graph("net/net").coverage


def test_an_illegal_node_is_an_error_where_no_fallback_is_allowed(tmp_path: Path) -> None:
    request = Request(target=load_target("xnnpack"), fallback="error", model=onnx_file(tmp_path, PARTLY))
    with pytest.raises(UnsupportedError, match=r"LOG_SOFTMAX is not among the \d+ operators") as caught:
        compiled(request, tmp_path / "out")
    assert "net/net: #1 LOG_SOFTMAX (" in caught.value.where
    assert caught.value.fix.startswith("rewrite it")
    assert not (tmp_path / "out").exists()
    whole = Request(target=load_target("xnnpack"), fallback="error", model=onnx_file(tmp_path, STATIC))
    assert compiled(whole, tmp_path / "out").graphs[0].coverage is not None


def test_a_format_that_the_target_lacks_has_no_coverage(tmp_path: Path) -> None:
    model = onnx_file(tmp_path, STATIC)
    request = Request(target=TPU, format="onnx", precision="float32", model=model)
    assert compiled(request, tmp_path / "out").graphs[0].coverage is None
    with pytest.raises(UnsupportedError, match="edgetpu takes tflite graphs, this one is onnx"):
        compiled(replace(request, fallback="error"), tmp_path / "none")


def test_wrong_numbers_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object) -> None:
        emit_onnx.to_onnx(*arguments)  # type: ignore[arg-type]
        path = arguments[1]
        assert isinstance(path, Path)
        onnx_file(path.parent, STATIC.replace("Relu(x)", "Abs(x)"), path.name)

    monkeypatch.setattr("m4c.build.to_onnx", wrong)
    with pytest.raises(NumbersError, match="net/net differs from its source: max relative error") as caught:
        compiled(Request(target=CPU, model=onnx_file(tmp_path, STATIC)), tmp_path / "out")
    assert "Relu y" in caught.value.where
    assert not (tmp_path / "out").exists()


def test_int8_needs_calibration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an integer build needs calibration samples"):
        compiled(Request(target=TPU, submodels=("gen_dec",)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_every_stage_is_told(tmp_path: Path) -> None:
    heard = Heard()
    request = Request(target=TPU, model=onnx_file(tmp_path, STATIC), calibration="random")
    compile_bundle(request, tmp_path / "out", heard)
    stages = [told[2] for told in heard.told if told[0] == "stage"]
    assert stages == ["capture", "calibrate", "emit", "verify"]
    assert {str(told[1]) for told in heard.told} == {"net/net", "net"}
    assert [told for told in heard.told if told[0] == "step"][:4] == [
        ("step", "net/net", count, 0) for count in range(1, 5)
    ]
    assert heard.told[-2:] == [("finished", "net/net"), ("completed", "net")]


def test_dynamic_batch(tmp_path: Path) -> None:
    request = Request(target=CPU, submodels=("gen_dec",), dynamic=frozenset({"batch"}))
    graph = compiled(request, tmp_path / "out").graph("gen_dec/head")
    assert graph.inputs[0].shape[0] == "batch"
    runner = open_runner(tmp_path / "out" / graph.file.path)
    for batch in (1, 3):
        x = np.ones((batch, int(graph.inputs[0].shape[1])), np.float32)
        assert runner.run({"hidden": x})["logits"].shape[0] == batch
