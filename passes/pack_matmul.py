"""MatMul with blockwise weights as the one operator that ONNX Runtime computes it with."""

import json
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.blockwise import BlockwiseWeight
from m4c.model import module_path
from m4c.pipeline import Note, Pass, Result
from m4c.rewrite import MICROSOFT, PARTS, Replacement
from m4c.weights import stored_value

ACCURACY_LEVEL = 4
"""Activations are rounded to int8, a block at a time, inside the kernel: the fastest (ONNX Runtime's MatMulNBits)."""


@dataclass(frozen=True)
class PackMatMul(Pass):
    """Rewrite each product with weights that are dequantized in blocks.

    Before: ``MatMul(x, DequantizeLinear(codes, scales[, zeros], block_size=g))``.
    After: ``com.microsoft::MatMulNBits(x, packed, scales[, zeros])``.
    Weights with one scale a channel stay: the operator has no such form.
    """

    name: ClassVar[str] = "pack-matmul"

    def call(self, model: ir.Model) -> Result:
        """Rewrite each node that qualifies."""
        changes, misses = [], []
        for node in [n for n in model.graph if n.op_type == "MatMul"]:
            right = node.inputs[1]
            dequantize = right.producer() if right is not None else None
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            codes = dequantize.inputs[0]
            weight = getattr(codes.const_value if codes is not None else None, "origin", None)
            if not isinstance(weight, BlockwiseWeight):
                misses.append(Note(module_path(node), "its weights are not quantized by m4c"))
            elif weight.grid.group is None:
                misses.append(Note(module_path(node), f"{weight.name} has one scale a channel"))
            else:
                _rewrite(node, weight)
                changes.append(Note(module_path(node), f"{weight.name} is packed"))
        if changes:
            model.opset_imports[MICROSOFT] = 1
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, weight: BlockwiseWeight) -> None:
    """Replace ``node``; the packed tensors have other names than those beside a DequantizeLinear."""
    edit, (outputs, inputs) = Replacement(node), weight.shape
    stored = [edit.weight(stored_value(tensor)) for tensor in weight.packed() if tensor is not None]
    sizes = {"K": inputs, "N": outputs, "bits": weight.grid.bits, "block_size": weight.grid.size(inputs)}
    packed = edit.op(
        "MatMulNBits",
        [node.inputs[0], *stored],
        {**sizes, "accuracy_level": ACCURACY_LEVEL},
        shape=node.outputs[0].shape,
        domain=MICROSOFT,
    )
    if weight.parts:
        maker = packed.producer()
        assert maker is not None
        maker.metadata_props[PARTS] = json.dumps({part.name: part.shape[0] for part in weight.parts})
    edit.finish(packed)
