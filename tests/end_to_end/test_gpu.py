"""Sub-models for a phone's GPU in both formats, through the command line: float16, and each graph in one piece."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from m4c.bundle import GraphRecord, read_manifest
from m4c.numerics import TOLERANCE
from m4c.selftest import selftest
from m4c.targets.legality import Legal, verdicts
from m4c.targets.partition import cut
from m4c.targets.profile import load_target
from m4c.targets.read_onnx import read_onnx
from m4c.targets.read_tflite import read_tflite
from m4c.targets.view import Graph
from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]

TRAINED = Path(__file__).parents[1] / "assets" / "tiny_llama"
GPU = load_target("gpu")


def read(path: Path) -> Graph:
    """Return the graph of an artifact as a target sees it."""
    (graph,) = read_onnx(path) if path.suffix == ".onnx" else read_tflite(path)
    return graph


def partitions(graph: Graph, form: str) -> list[int]:
    """Return the sizes of the pieces that the GPU takes of ``graph``."""
    runtime = GPU.runtimes[form]
    return [
        len(p.nodes)
        for p in cut(graph, [isinstance(v, Legal) for v in verdicts(graph, GPU)], runtime.partition).delegated
    ]


def weights(record: GraphRecord, folder: Path) -> set[str]:
    """Return the dtypes of the float weights of an artifact, its constants aside."""
    if record.format == "onnx":
        model = onnx.load(folder / record.file.path)
        stored = [t for t in model.graph.initializer if t.data_type in (1, 10) and np.prod(t.dims) > 64]
        return {onnx.TensorProto.DataType.Name(t.data_type) for t in stored}
    graph = read(folder / record.file.path)
    held = {t for node in graph.nodes for t in node.inputs if t is not None and t.stored and t.elements}
    return {t.dtype.upper() for t in held if t.dtype.startswith("float") and (t.elements or 0) > 64}


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_both_formats_are_float16_and_one_partition(export: Export, form: str) -> None:
    done = export("projection", "--target", "gpu", "--format", form, "--random-weights", 0, graph="imu_enc")
    assert done.code == 0, done.err
    records = read_manifest(done.out).graphs
    assert [record.name for record in records] == ["imu_enc/encoder", "projection/linear"]
    for record in records:
        assert (record.precision, record.processor, record.fallback) == ("float16", "gpu", None)
        assert weights(record, done.out) == {"FLOAT16"}
        assert 0 < record.verification.max_relative_error < TOLERANCE["float16"]
        graph = read(done.out / record.file.path)
        assert partitions(graph, form) == [len(graph.nodes)]
        assert record.floats == {}
        assert (record.calibration is None) == (form == "tflite")
    assert len(selftest(read_manifest(done.out), done.out)) == 2


def test_a_cache_in_float16_is_read_and_written_without_casts(export: Export) -> None:
    options = ("--weights", TRAINED, "--context-length", 64, "--cache-type", "float16")
    done = export("--target", "gpu", "--format", "onnx", *options)
    assert done.code == 0, done.err
    model = done.model.graph
    caches = {v.name for v in (*model.input, *model.output) if v.name.startswith(("past_", "present_"))}
    assert len(caches) == 16
    half = {v.name for v in (*model.input, *model.output) if v.type.tensor_type.elem_type == 10}
    assert half == caches
    beside = [n.name for n in model.node if n.op_type == "Cast" and caches & {*n.input, *n.output}]
    assert beside == []
