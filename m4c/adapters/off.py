"""Without an adapter an artifact with slots is its base: the same outputs, bit for bit, as if it had no slots.

What the slots added is taken out again of what was written. B of a slot is zero, so a product by it is zero, and a sum with
that is the other summand.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as tfl

from m4c.errors import Bug, NumbersError
from m4c.float_products import run_in_pieces
from m4c.rewrite import drop_unused
from m4c.segments import outputs_by_segment, run_each_in_segments
from m4c.slots import Slot
from m4c.targets.emit_tflite.opened import Opened
from m4c.verify import FLOAT_FIX

Array = np.ndarray
Op = tfl.BuiltinOperator

PRODUCTS, SUMS = ("MatMul", Op.BATCH_MATMUL), ("Add", Op.ADD)
SAME = ("Reshape", "Transpose", Op.RESHAPE, Op.TRANSPOSE)
"""Operators whose result is zero where what they read is."""


def require_base(artifact: Path, slots: Sequence[Slot], inputs: Mapping[str, Array], signature: str) -> None:
    """Raise unless ``artifact`` computes on ``inputs``, with no adapter in its ``slots``, what it would without slots.

    Raises:
        NumbersError: naming the first output of which a bit differs.
    """
    ups = {slot.up for slot in slots}
    if artifact.suffix == ".onnx":
        (off,) = run_each_in_segments(artifact, [inputs])
        base = _onnx_base(artifact, ups, inputs)
    else:
        off = run_in_pieces(Opened(artifact, signature), inputs)
        base = run_in_pieces(without_slots(Opened(artifact, signature), ups), inputs)
    for name, values in base.items():
        if values.tobytes() != off[name].tobytes():
            raise NumbersError(
                f"without an adapter {name} is not what it is without slots",
                where=f"{artifact.name}, {name}",
                fix=FLOAT_FIX,
            )


def _onnx_base(artifact: Path, ups: Collection[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of an ONNX artifact whose slots are taken out."""
    model = ir.load(artifact)
    found = _Zeros(value for value in model.graph.inputs if value.name in ups)
    for node in model.graph:
        found.meet(node.op_type, [value for value in node.inputs if value is not None], node.outputs)
    for output, instead in found.instead.items():
        if output.is_graph_output():
            output.name, instead.name = f"{output.name}.slot", output.name
        output.replace_all_uses_with(instead, replace_graph_outputs=True)
    drop_unused(model)
    made: dict[str, Array] = {}
    for (outputs,) in outputs_by_segment(model, artifact, [inputs]):
        made |= outputs
    return made


def without_slots(opened: Opened, ups: Collection[str]) -> Opened:
    """Return the signature of a TFLite file whose slots are taken out; what takes their B is called ``ups``."""
    found = _Zeros({index for name, index in opened.inputs.items() if name in ups})
    for operator in opened.operators:
        computed = [i for i in operator.inputs if i >= 0 and not opened.stored(i)]
        found.meet(opened.code(operator), computed, operator.outputs)
    return opened.with_instead(found.instead)


class _Zeros:
    """What of a graph is zero, met operator by operator."""

    def __init__(self, zeros: Iterable[Any]) -> None:
        self.zeros = set(zeros)
        self.instead: dict[Any, Any] = {}
        """What a sum with zeros is."""

    def meet(self, operator: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Look at an operator whose inputs were met before."""
        held = [value for value in inputs if value in self.zeros]
        if not held:
            return
        others = [value for value in inputs if value not in self.zeros]
        if operator in SUMS and len(others) == 1:
            self.instead[outputs[0]] = self.instead.get(others[0], others[0])
        elif operator in PRODUCTS or operator in SAME:
            self.zeros.add(outputs[0])
        else:
            raise Bug(f"{operator} reads what a slot adds", fix="it is not known what it makes of zeros")
