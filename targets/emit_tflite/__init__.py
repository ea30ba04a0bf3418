"""The TFLite emitter: an ``onnx_ir.Model`` of canonical operators, float or quantized, to a file that LiteRT runs.

:func:`to_tflite` writes a file, :func:`read_ports` says what a file takes and gives.
"""

from m4c.targets.emit_tflite.emit import to_tflite
from m4c.targets.emit_tflite.flat import SIGNATURE
from m4c.targets.emit_tflite.ports import Ports, TensorPort, read_ports
from m4c.targets.emit_tflite.table import EMIT, INTEGER, operators_for

__all__ = ["EMIT", "INTEGER", "SIGNATURE", "Ports", "TensorPort", "operators_for", "read_ports", "to_tflite"]
