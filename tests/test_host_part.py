"""What hosts look up is cut off a quantized graph: both parts together compute what the whole did, bit for bit."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.errors import UnsupportedError
from m4c.host_part import is_step, of_many_dimensions, split
from m4c.passes.quantize_static import QuantizeStatic
from m4c.runners import TfliteRunner, host_file
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.read_tflite import read_tflite
from tests.integer_graphs import calibrated, graph
from tests.passes.rewriting import build

Array = np.ndarray

TABLE = np.random.default_rng(3).normal(0, 1, (9, 4)).astype(np.float32)


def quantized(text: str, **stored: Array) -> ir.Model:
    return QuantizeStatic()(calibrated(graph(text, **stored), t=(-4.0, 4.0))).model


def embedded() -> ir.Model:
    text = "g (int64[2] i, float[2,4] x) => (float[2,4] y) { e = Gather(t, i) s = Add(e, x) y = Relu(s) }"
    return quantized(text, t=TABLE)


def test_both_parts_compute_what_the_whole_does(rng: np.random.Generator, tmp_path: Path) -> None:
    model = embedded()
    to_tflite(model, tmp_path / "whole.tflite")
    before, after = split(model)
    assert before is not None
    path = tmp_path / "cut.tflite"
    to_tflite(before, host_file(path))
    to_tflite(after, path)
    feeds = {"i": np.array([7, 2]), "x": rng.normal(0, 1, (2, 4)).astype(np.float32)}
    whole, cut = TfliteRunner(tmp_path / "whole.tflite"), TfliteRunner(path)
    assert cut.inputs == whole.inputs == {"i", "x"}
    np.testing.assert_array_equal(cut.run(feeds)["y"], whole.run(feeds)["y"])


def test_the_accelerator_has_no_look_up(tmp_path: Path) -> None:
    before, after = split(embedded())
    assert before is not None
    kinds = []
    for part in (before, after):
        to_tflite(part, tmp_path / "part.tflite")
        (file,) = read_tflite(tmp_path / "part.tflite")
        kinds.append([node.operator for node in file.nodes])
    assert kinds == [["GATHER"], ["ADD", "RELU"]]
    assert [value.name for value in after.graph.inputs] == ["x", "e"]


def test_the_model_is_left_as_it_is() -> None:
    model = embedded()
    names = [node.name for node in model.graph]
    split(model)
    assert [node.name for node in model.graph] == names


def test_an_input_that_is_too_deep_is_reshaped_by_the_host() -> None:
    text = "g (float[1,2,1,2,3] x) => (float[2,6] y) { r = Reshape(x, s) y = Relu(r) }"
    before, after = split(quantized(text, s=np.array([2, 6])))
    assert before is not None
    assert [v.name for v in after.graph.inputs] == ["r"]


def test_a_step_that_is_counted_is_the_hosts() -> None:
    body = "r = Round(n) c = Cast<to = 7>(r) e = Gather(t, c) s = Add(e, x) y = Relu(s)"
    before, after = split(quantized(f"g (float[1] n, float[1,4] x) => (float[1,4] y) {{ {body} }}", t=TABLE))
    assert before is not None
    assert [v.name for v in before.graph.inputs] == ["n"]
    assert [v.name for v in after.graph.inputs] == ["x", "e"]


def test_a_graph_without_numbers_stays_whole() -> None:
    model = quantized("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    assert split(model) == (None, model)
    assert not is_step(model.graph)


def test_a_graph_of_look_ups_is_the_hosts() -> None:
    model = quantized("g (int64[2] i) => (float[2,4] y) { y = Gather(t, i) }", t=TABLE)
    assert is_step(model.graph)
    assert split(model) == (None, model)


def test_a_look_up_among_computed_values_is_refused() -> None:
    text = "g (float[3,4] x, int64[1] i) => (float[1,4] y) { r = Relu(x) y = Gather<axis = 0>(r, i) }"
    with pytest.raises(UnsupportedError, match="which the accelerator computes"):
        split(quantized(text))


def test_a_gpu_gets_the_inner_shape_of_an_input_of_five_dimensions(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    text = """g (float[1,3,1,4,5] x, int64[2] i) => (float[2,20] y) <float[3,20] r, float[2,20] e>
        { r = Reshape(x, to) e = Gather(r, i) y = Relu(e) }"""
    model = build(text, {}, {"to": np.array([3, 20])})
    to_tflite(model, tmp_path / "whole.tflite")
    before, after = split(model, of_many_dimensions)
    assert before is not None
    path = tmp_path / "cut.tflite"
    to_tflite(before, host_file(path))
    to_tflite(after, path)
    (file,) = read_tflite(path)
    assert [node.operator for node in file.nodes] == ["GATHER", "RELU"]
    feeds = {"x": rng.normal(0, 1, (1, 3, 1, 4, 5)).astype(np.float32), "i": np.array([2, 0])}
    expected = TfliteRunner(tmp_path / "whole.tflite").run(feeds)
    np.testing.assert_array_equal(TfliteRunner(path).run(feeds)["y"], expected["y"])
