"""A graph in segments computes what it computes whole, whatever crosses their borders."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from m4c import segments
from m4c.passes.pack_matmul import PackMatMul
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.pipeline import Pipeline
from m4c.runners import OnnxRunner
from m4c.scheme import Scheme
from m4c.segments import run_each_in_segments, run_in_segments
from m4c.targets.emit_onnx import to_onnx
from m4c.weight_file import WeightFile
from m4c.weights import Array
from tests.passes.rewriting import build
from tests.passes.test_quantize_weights import LINEAR, feed, folded, matrix

CHAIN = """m (float[2, 16] x, float[2, 16] late) => (float[2, 16] y, float[2, 16] middle, float[2, 16] last) {
    a = MatMul(x, w0)
    b = Relu(a)
    middle = MatMul(b, w1)
    c = Add(middle, x)
    d = MatMul(c, w2)
    e = Clip(d, , high)
    y = Add(e, a)
    f = MatMul(y, w3)
    last = Add(f, late)
}"""
"""Values that live long (a, x), one that comes in late, outputs that are read on, an input that is left out."""


def chain(folder: Path) -> Path:
    rng = np.random.default_rng(6)
    weights = {f"w{i}": rng.standard_normal((16, 16)).astype(np.float32) / 4 for i in range(4)}
    model = build(CHAIN, weights, {"high": np.array(0.7, np.float32)})
    with WeightFile(folder / "w.bin") as file:
        to_onnx(model, folder / "m.onnx", file)
    return folder / "m.onnx"


def feeds() -> dict[str, Array]:
    return {"x": feed((2, 16)), "late": feed((2, 16)) + 1}


class Counted(OnnxRunner):
    """Counts the segments, and looks at the names of what each gives."""

    made: list[list[str]]

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:  # type: ignore[override]
        found = super().run(inputs)
        self.made.append(sorted(found))
        return found


@pytest.mark.parametrize(("size", "count"), [(1 << 30, 1), (2052, 2), (1028, 4), (1, 9)])
def test_segments(size: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chain(tmp_path)
    whole = OnnxRunner(path).run(feeds())
    Counted.made = []
    monkeypatch.setattr(segments, "OnnxRunner", Counted)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
    given = feeds()
    found = run_in_segments(path, given)
    assert list(found) == ["y", "middle", "last"]
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
    assert len(Counted.made) == count
    assert set(given) == {"x", "late"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "w.bin"]


def test_what_no_later_segment_reads_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chain(tmp_path)
    held: list[set[str]] = []
    real = segments._run

    def look(model, path, given, made, alive):  # type: ignore[no-untyped-def]
        held.append(set(alive[0]))
        return real(model, path, given, made, alive)

    monkeypatch.setattr(segments, "_run", look)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1028)
    run_in_segments(path, feeds())
    assert held == [
        {"x", "late"},
        {"x", "late", "a", "b"},
        {"late", "a", "c"},
        {"late", "y"},
    ]


def test_activations_are_not_rounded(tmp_path: Path) -> None:
    """The kernel that a phone uses rounds them; what is verified is the weights."""
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()})
    made, _ = Pipeline((QuantizeWeights(Scheme(4, 16)), PackMatMul())).run(model)
    with WeightFile(tmp_path / "w.bin") as file:
        to_onnx(made, tmp_path / "m.onnx", file)
    before = (tmp_path / "m.onnx").read_bytes()
    x = {"x": feed((2, 3, 64))}
    found = run_in_segments(tmp_path / "m.onnx", x)["y"]
    proto = onnx.load(tmp_path / "m.onnx")
    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    codes = np.stack((held["w.packed"] & 15, held["w.packed"] >> 4), -1).reshape(24, 4, 16).astype(np.float32)
    values = ((codes - 8) * held["w.packed.scales"].reshape(24, 4, 1)).reshape(24, 64)
    np.testing.assert_allclose(found, x["x"] @ values.T, rtol=1e-4, atol=1e-4)
    assert np.abs(OnnxRunner(tmp_path / "m.onnx").run(x)["y"] - found).max() > 1e-3
    assert (tmp_path / "m.onnx").read_bytes() == before


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_product_larger_than_a_segment_is_run_in_parts(
    symmetric: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folded(LINEAR.format(inputs=64, outputs=24), {"w": matrix()})
    made, _ = Pipeline((QuantizeWeights(Scheme(8, 16, symmetric)), PackMatMul())).run(model)
    with WeightFile(tmp_path / "w.bin") as file:
        to_onnx(made, tmp_path / "m.onnx", file)
    x = {"x": feed((2, 3, 64))}
    whole = run_in_segments(tmp_path / "m.onnx", x)["y"]
    Counted.made = []
    monkeypatch.setattr(segments, "OnnxRunner", Counted)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 700)
    found = run_in_segments(tmp_path / "m.onnx", x)["y"]
    assert len(Counted.made) in (3, 4)  # of 1920 bytes, or 2016 with zero points
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "w.bin"]


def test_a_failing_segment_leaves_no_file(tmp_path: Path) -> None:
    path = chain(tmp_path)
    with pytest.raises(Exception, match="x"):
        run_in_segments(path, {**feeds(), "x": feed((2, 15))})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "w.bin"]


def test_a_graph_that_passes_an_input_through(tmp_path: Path) -> None:
    text = "m (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) { y = Identity(x) z = Relu(y) }"
    with WeightFile(tmp_path / "w.bin") as file:
        to_onnx(build(text, {}, {}), tmp_path / "m.onnx", file)
    x = feed((2, 4))
    found = run_in_segments(tmp_path / "m.onnx", {"x": x})
    np.testing.assert_array_equal(found["y"], x)
    np.testing.assert_array_equal(found["z"], np.maximum(x, 0))


def test_defaults_give_way_and_come_back(tmp_path: Path) -> None:
    """Feeds that go through together give what each gives alone; an input that one leaves out has its default there."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    m (float[2, 3] x, float[3] shift) => (float[2, 3] y) <float[3] shift = {1, 2, 3}> { y = Add(x, shift) }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    x, other = np.ones((2, 3), np.float32), np.full(3, 5, np.float32)
    plain, shifted = run_each_in_segments(path, [{"x": x}, {"x": x, "shift": other}])
    np.testing.assert_array_equal(plain["y"], x + np.array([1, 2, 3], np.float32))
    np.testing.assert_array_equal(shifted["y"], x + other)
    np.testing.assert_array_equal(run_in_segments(path, {"x": x})["y"], plain["y"])
