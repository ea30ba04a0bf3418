import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from m4c.capture import OPSET
from m4c.errors import UsageError
from m4c.passes import for_format
from m4c.source import OnnxSource
from m4c.targets.emit_onnx import to_onnx
from m4c.verify import verify
from m4c.weight_file import WeightFile
from m4c.weights import is_weight
from tests.two_layers import source_of, tiny, weights_of

Dims = tuple[int | str | None, ...]


def written(
    path: Path, opset: int = 17, dims: Dims | None = (2, 3, 8), kind: int = TensorProto.FLOAT
) -> Path:
    """Write layer norm, matrix product and sum, as a file made elsewhere: no shapes inside, weights within."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["m"], axes=[-1]) if opset < 18
        else helper.make_node("ReduceMean", ["p", "axes"], ["m"]),
        helper.make_node("Sub", ["p", "m"], ["y"]),
    ]  # fmt: skip
    stored = {
        "g": rng.standard_normal(8).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
        "w": rng.standard_normal((8, 100)).astype(np.float32),
    }
    if opset >= 18:
        stored["axes"] = np.array([-1])
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("y", kind, None if dims is None else (*dims[:-1], 100))],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def verified(path: Path, folder: Path) -> float:
    """Compile a file for the CPU and return how far it is from itself."""
    source = OnnxSource(path)
    model, _ = for_format("onnx").run(source.capture())
    folder.mkdir()
    with WeightFile(folder / "w.bin") as file:
        to_onnx(model, folder / "m.onnx", file)
    return verify(source, model, folder / "m.onnx", "float32", source.sample(0)).difference.max_relative


@pytest.mark.parametrize("opset", [17, 20, 21])
@pytest.mark.parametrize("dims", [(2, 3, 8), ("batch", "length", 8), (None, None, 8)])
def test_an_onnx_file_is_compiled_whatever_its_opset(opset: int, dims: Dims, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", opset, dims)
    before = path.read_bytes()
    assert OnnxSource(path).capture().opset_imports[""] == OPSET
    assert verified(path, tmp_path / "out") < 1e-5
    assert path.read_bytes() == before


def test_its_interface(tmp_path: Path) -> None:
    source = OnnxSource(written(tmp_path / "elsewhere.onnx", dims=("batch", None, 8)))
    assert source.name == "elsewhere/elsewhere"
    (x,), (y,) = source.inputs, source.outputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("batch", "x.1", 8))
    assert (y.name, y.dtype, y.shape) == ("y", "float32", ("batch", "y.1", 100))
    first, again, other = (source.sample(seed)["x"] for seed in (0, 0, 1))
    assert (first.shape, str(first.dtype)) == ((1, 1, 8), "float32")
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_of_integers_and_booleans(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, (50,)),
        helper.make_tensor_value_info("keep", TensorProto.BOOL, (50,)),
    ]
    nodes = [helper.make_node("Compress", ["ids", "keep"], ["y"], axis=0)]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.INT64, ("n",))]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9),
        tmp_path / "m.onnx",
    )
    source = OnnxSource(tmp_path / "m.onnx")
    made = source.sample(0)
    assert (str(made["ids"].dtype), str(made["keep"].dtype)) == ("int64", "bool")
    assert set(made["ids"]) == {0, 1}
    np.testing.assert_array_equal(source.run(made)["y"], made["ids"][made["keep"]])


def test_it_is_read_once_for_its_interface_and_pickles_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = OnnxSource(written(tmp_path / "m.onnx"))
    loads: list[object] = []
    load = ir.load

    def counted(path: Path) -> ir.Model:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(ir, "load", counted)
    for _ in range(3):
        assert len(source.inputs) == len(source.outputs) == 1
    assert len(loads) == 1
    sent = pickle.dumps(source)
    assert len(sent) < 2000
    copy = pickle.loads(sent)
    assert copy == source
    assert copy.inputs == source.inputs
    assert len(loads) == 1


def test_each_capture_is_a_model_of_its_own(tmp_path: Path) -> None:
    source = OnnxSource(written(tmp_path / "m.onnx"))
    first = source.capture()
    first.graph.outputs.clear()
    assert len(source.capture().graph.outputs) == 1


def test_initializers_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (8, 100)))
    onnx.save(model, path)
    assert [port.name for port in OnnxSource(path).inputs] == ["x"]
    assert verified(path, tmp_path / "out") < 1e-5


def external(path: Path) -> Path:
    """Move the weights of a file into a second one."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


def test_external_weights_stay_on_disk(tmp_path: Path) -> None:
    path = external(written(tmp_path / "m.onnx"))
    weight = OnnxSource(path).capture().graph.initializers["w"]
    assert is_weight(weight)
    assert isinstance(weight.const_value, ir.ExternalTensor)
    assert verified(path, tmp_path / "out") < 1e-5


@pytest.mark.parametrize("damage", [Path.unlink, lambda data: data.write_bytes(data.read_bytes()[:-1])])
def test_external_weights_that_are_not_there(damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = external(written(tmp_path / "m.onnx"))
    damage(tmp_path / "weights.bin")
    with pytest.raises(
        UsageError, match=r"w should be in weights\.bin, which is missing or cut short"
    ) as caught:
        OnnxSource(path).capture()
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"PK\x03\x04 and so on"])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for use in (lambda: OnnxSource(path).inputs, lambda: OnnxSource(path).capture()):
        with pytest.raises(UsageError, match="not an ONNX model") as caught:
            use()
        assert caught.value.where == str(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the graph: No such file"):
        OnnxSource(tmp_path / "none.onnx").capture()


def test_inputs_without_shapes_and_of_text(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", dims=None)
    with pytest.raises(UsageError, match="x has no dtype or shape") as caught:
        _ = OnnxSource(path).inputs
    assert (caught.value.where, "shape inference" in caught.value.fix) == (str(path), True)
    with pytest.raises(UsageError, match="x holds text"):
        _ = OnnxSource(written(path, kind=TensorProto.STRING)).inputs


def test_an_opset_that_does_not_convert(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "m.onnx", opset=21)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("GroupNormalization", ["x", "g", "b"], ["z"], num_groups=1))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (2, 3, 8)))
    onnx.save(model, path)
    with pytest.raises(
        UsageError, match=f"the file is of opset 21, which does not convert to {OPSET}"
    ) as caught:
        OnnxSource(path).capture()
    assert caught.value.where == str(path)
    assert not caplog.records


def test_a_torch_source() -> None:
    whole = tiny()
    weights = weights_of(whole.source)
    fixed, free = source_of(whole, weights), source_of(whole, weights, frozenset({"batch"}))
    assert fixed.name == "tiny/whole"
    assert (fixed.inputs[0].shape, free.inputs[0].shape) == ((1, 3, 8), ("batch", 3, 8))
    assert (fixed.outputs[0].shape, free.outputs[0].shape) == ((1, 3, 8), ("batch", 3, 8))
    assert fixed.inputs[0].meaning == "numbers"
    np.testing.assert_array_equal(fixed.sample(3)["x"], fixed.sample(3)["x"])
    seen: dict[str, np.ndarray] = {}
    inputs = fixed.sample(0)
    fixed.record(inputs, seen.__setitem__)
    np.testing.assert_allclose(seen["y"], fixed.run(inputs)["y"], rtol=1e-5, atol=1e-6)
    weight = fixed.capture().graph.initializers["up.weight"].const_value
    assert weight is weights["up.weight"]
