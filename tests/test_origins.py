"""Origins: values of an artifact are found by the names that emitters give them."""

from pathlib import Path

import onnx_ir as ir
import pytest

from m4c.bundle import read_manifest
from m4c.operator_reports.covered import known
from m4c.origins import Origin, origin, origins_of, read_origins, write_origins
from m4c.targets.read_tflite import read_tflite

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[2] x, float s, int8 z) => (float[2] y) {
        ab = Relu(x)
        codes = QuantizeLinear(ab, s, z)
        other = DequantizeLinear(codes, s, z)
        y = Tanh(other)
    }"""


def model() -> ir.Model:
    made = ir.from_onnx_text(TEXT)
    for node in made.graph:
        if node.op_type == "QuantizeLinear":
            node.outputs[0].name = "ab.codes"
        node.name = f"node_{node.outputs[0].name}"
    return made


def test_a_conversion_comes_from_what_made_the_value() -> None:
    found = origins_of(model())
    assert set(found) == {"ab", "other", "y"}
    assert found["ab"] == Origin("ab", "Relu", "node_ab")
    assert (found["other"].operator, found["other"].module) == ("DequantizeLinear", "node_ab")
    assert found["y"].module == "node_y"


@pytest.mark.parametrize("name", ["m.x", "m.x.mul_0", "m.x@0231", "m.x.mul_0@10", "m.x@021.float"])
def test_suffixes_and_layouts_are_left_out(name: str) -> None:
    one, outer = Origin("m.x", "Add", "m"), Origin("m", "Mul", "n")
    assert origin(name, {"m": outer, "m.x": one}) == one


def test_what_is_named_after_nothing_has_no_origin() -> None:
    assert origin("constant.3", {"const": Origin("const", "Add", "m")}) is None
    assert origin("", {"a": Origin("a", "Add", "m")}) is None


def test_they_are_written_and_read(tmp_path: Path) -> None:
    found = {"decode": origins_of(model()), "prefill": {}}
    write_origins(tmp_path / "o.json", found)
    assert read_origins(tmp_path / "o.json") == found


def test_every_node_of_an_artifact_has_one(int8_bundle: Path) -> None:
    record = read_manifest(int8_bundle).graph("projection/linear")
    (graph,), (origins,) = read_tflite(int8_bundle / record.file.path), known(int8_bundle, record)
    found = [origin(node.outputs[0].name, origins) for node in graph.nodes]
    assert found
    assert None not in found
