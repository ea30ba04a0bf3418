"""The versions that a file asks for."""

from ai_edge_litert import schema_py_generated as tfl

from m4c.targets.emit_tflite.versions import version

Op = tfl.BuiltinOperator


def test_versions_follow_type_and_rank() -> None:
    assert version(Op.ADD, integer=False, rank=4) == 1
    assert version(Op.ADD, integer=True, rank=4) == 2
    assert version(Op.FULLY_CONNECTED, integer=False, rank=3) == 5
    assert version(Op.CONV_2D, integer=True, rank=4) == 3
    assert version(Op.TRANSPOSE, integer=True, rank=4) == 2
    assert version(Op.TRANSPOSE, integer=False, rank=6) == 4
