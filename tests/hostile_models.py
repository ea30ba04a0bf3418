"""ONNX files that nobody should trust, each with what its refusal says: as bytes, and as files that lie beside them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

W = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)

Change = Callable[[onnx.ModelProto], object]


@dataclass(frozen=True)
class Hostile:
    """A file, what is beside it, and what is said of it."""

    name: str
    model: onnx.ModelProto
    said: str
    beside: Callable[[Path], object] = lambda folder: None


def model(nodes: list[onnx.NodeProto], *stored: onnx.TensorProto, size: int = 4) -> onnx.ModelProto:
    """Return a model of ``nodes`` from x to y."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], list(stored))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def product(change: Change = lambda made: None) -> onnx.ModelProto:
    """Return a product by a stored matrix, changed."""
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], numpy_helper.from_array(W, "w"), size=64)
    change(made)
    return made


def outside(location: str, **said: object) -> onnx.ModelProto:
    """Return the product with its matrix in another file."""
    made = product()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": W.nbytes, **said}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return made


def node(operator: str, inputs: str, output: str) -> onnx.NodeProto:
    """Return a node with inputs of one letter each."""
    return helper.make_node(operator, list(inputs), [output])


def _dims(*dims: int) -> Change:
    return lambda made: made.graph.initializer[0].dims.__setitem__(slice(None), dims)


def _input(size: int) -> Change:
    def change(made: onnx.ModelProto) -> None:
        made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size

    return change


def _twice(field: str) -> Change:
    return lambda made: getattr(made.graph, field).add().CopyFrom(getattr(made.graph, field)[0])


def _kind(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].data_type = 99


def _itself(made: onnx.ModelProto) -> None:
    for name, calls in (("F", "G"), ("G", "F")):
        function = made.functions.add(name=name, domain="d", input=["a"], output=["b"])
        function.node.add(op_type=calls, domain="d", input=["a"], output=["b"])


def _data(folder: Path) -> None:
    (folder / "w.bin").write_bytes(W.tobytes())


def _linked(link: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        secret = folder.parent / "secret.bin"
        secret.write_bytes(W.tobytes())
        link(secret, folder / "w.bin")

    return make


def hostile() -> Iterator[Hostile]:
    """Yield every file."""
    away = "outside of the folder"
    yield Hostile("a folder above", outside("../secret.bin"), away)
    yield Hostile("an absolute path", outside("/etc/passwd"), away)
    yield Hostile("no path", outside(""), away)
    yield Hostile("a path with a zero", outside("w\0.bin"), away)
    link = "is a link to a file elsewhere"
    yield Hostile("a symbolic link", outside("w.bin"), link, _linked(lambda a, b: b.symlink_to(a)))
    yield Hostile("a hard link", outside("w.bin"), link, _linked(os.link))
    yield Hostile("a folder for a file", outside("."), "is missing or cut short")
    yield Hostile("nothing there", outside("w.bin"), "is missing or cut short")
    yield Hostile("a negative offset", outside("w.bin", offset=-8), "has the offset '-8'", _data)
    yield Hostile("an offset in words", outside("w.bin", offset="one"), "has the offset 'one'", _data)
    yield Hostile(
        "an offset behind the end", outside("w.bin", offset=1 << 62), "is missing or cut short", _data
    )
    yield Hostile("a length of exabytes", outside("w.bin", length=1 << 62), "its shape needs 16384", _data)
    yield Hostile("exabytes", product(_dims(1 << 30, 1 << 30)), r"w has shape \[1073741824, 1073741824\]")
    yield Hostile("more than there is", product(_dims(64, 65)), "16384 bytes, its shape needs 16640")
    yield Hostile("less than nothing", product(_dims(-1, 64)), r"w has shape \[-1, 64\]")
    yield Hostile("an endless input", product(_input(1 << 60)), "the input x has shape")
    yield Hostile("a negative input", product(_input(-5)), "the input x has shape")
    yield Hostile("an unknown type", product(_kind), "w is of the unknown type 99")
    yield Hostile("two matrices of one name", product(_twice("initializer")), "w is there twice")
    yield Hostile("two inputs of one name", product(_twice("input")), "x is there twice")
    yield Hostile("two results of one name", product(_twice("node")), "makes y, which is there already")
    yield Hostile("functions in a circle", product(_itself), "calls itself")
    unmade = "which nothing before it makes"
    yield Hostile(
        "a circle", model([node("Add", "xb", "a"), node("Relu", "a", "b"), node("Neg", "a", "y")]), unmade
    )
    yield Hostile("a node that reads itself", model([node("Relu", "y", "y")]), unmade)
    yield Hostile("a value from nowhere", model([node("Relu", "n", "y")]), unmade)
    yield Hostile("an output from nowhere", model([node("Relu", "x", "z")]), "nothing makes the output y")
    yield Hostile("too few inputs", model([node("MatMul", "x", "y")]), "has 1 inputs, 2 to 2 are allowed")
    yield Hostile("too many inputs", model([node("Relu", "xxx", "y")]), "has 3 inputs, 1 to 1 are allowed")
