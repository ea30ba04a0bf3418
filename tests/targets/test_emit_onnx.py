"""ONNX files: weights beside the graph, once; nothing in them from this machine."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from m4c.model import fingerprint
from m4c.targets.emit_onnx import to_onnx, weight_bytes
from m4c.weight_file import ALIGNMENT, WeightFile
from m4c.weights import CONSTANT_BYTES, is_weight
from tests.passes.rewriting import build

W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
TINY = np.arange(16, dtype=np.float32)
TEXT = "g (float[2, 16] x) => (float[2, 16] y) { a = MatMul(x, w) b = Add(a, t) y = Mul(b, c) }"


def model() -> ir.Model:
    return build(TEXT, {"w": W, "t": TINY}, {"c": np.array(2, np.float32)})


def emit(made: ir.Model, folder: Path, *names: str) -> list[Path]:
    """Write the model under each name, the weights shared."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.onnx" for name in names]
    with WeightFile(folder / "weights.bin") as weights:
        for path in paths:
            to_onnx(made, path, weights)
    return paths


def test_the_file_computes_what_the_model_says(tmp_path: Path) -> None:
    (path,) = emit(model(), tmp_path, "a")
    x = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32)
    (actual,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(actual, (x @ W + TINY) * 2, rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(str(path), full_check=True)


def test_weights_lie_beside_the_graph_and_small_ones_in_it(tmp_path: Path) -> None:
    (path,) = emit(model(), tmp_path, "a")
    stored = {t.name: t for t in onnx.load(path, load_external_data=False).graph.initializer}
    outside = {name for name, t in stored.items() if t.data_location == onnx.TensorProto.EXTERNAL}
    assert W.nbytes > CONSTANT_BYTES >= TINY.nbytes
    assert outside == {"w"}
    facts = {entry.key: entry.value for entry in stored["w"].external_data}
    assert facts["location"] == "weights.bin"
    assert int(facts["offset"]) % ALIGNMENT == 0
    assert (tmp_path / "weights.bin").read_bytes() == W.tobytes()


def test_two_graphs_share_their_weights(tmp_path: Path) -> None:
    first, second = emit(model(), tmp_path, "a", "b")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "weights.bin").stat().st_size == W.nbytes


def test_the_model_is_untouched_and_keeps_its_recipes(tmp_path: Path) -> None:
    made = model()
    made.graph[0].metadata_props["here"] = "/home/me"
    before = fingerprint(made)
    emit(made, tmp_path, "a")
    assert fingerprint(made) == before
    assert made.graph[0].metadata_props == {"here": "/home/me"}
    assert is_weight(made.graph.initializers["w"])
    assert is_weight(made.graph.initializers["t"])


def test_nothing_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    made = model()
    places = [made, made.graph, made.graph[0], made.graph.inputs[0], made.graph.initializers["w"]]
    for place in (*places, made.graph[0].outputs[0], made.graph.outputs[0]):
        place.metadata_props["stack"] = "/home/me"  # type: ignore[attr-defined]
        place.doc_string = "/home/me"  # type: ignore[attr-defined]
    (path,) = emit(made, tmp_path, "a")
    assert b"/home/me" not in path.read_bytes()
    assert str(tmp_path).encode() not in path.read_bytes()
    assert onnx.load(path, load_external_data=False).producer_name == "m4c"


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    (first,) = emit(model(), tmp_path / "one", "a")
    (second,) = emit(model(), tmp_path / "two", "a")
    assert first.read_bytes() == second.read_bytes()


def test_progress_counts_the_weights(tmp_path: Path) -> None:
    done: list[int] = []
    with WeightFile(tmp_path / "weights.bin") as weights:
        to_onnx(model(), tmp_path / "a.onnx", weights, done.append)
    assert sum(done) == weight_bytes(model()) == W.nbytes
