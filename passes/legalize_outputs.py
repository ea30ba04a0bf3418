"""Outputs that other nodes read too, for runtimes that fuse what makes them away."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, static

MOVES = frozenset({"Concat", "Gather", "Reshape", "Slice", "Split", "Transpose"})
"""What only moves numbers is fused into nothing; so a cache is not copied."""


@dataclass(frozen=True)
class LegalizeOutputs(Pass):
    """Return a copy of every computed float output that a node reads.

    Before: ``y = Mul(x, g)``, an output and what ``MatMul`` reads. After: ``t = Mul(x, g)``, ``y = Reshape(t)``: only the copy
    is an output. LiteRT's GPU delegate (2.3.0, WebGPU) puts a product or a sum with a constant into the linear layer beside it
    and leaves the output between the two unwritten.
    """

    name: ClassVar[str] = "legalize-outputs"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each output that qualifies; one without a static shape is a miss."""
        changes, misses = [], []
        for node in list(model.graph):
            for value in node.outputs:
                if node.op_type in MOVES or not value.is_graph_output() or not value.uses():
                    continue
                if value.dtype != ir.DataType.FLOAT or len(node.outputs) > 1 or static(value) is None:
                    misses.append(Note(module_path(node), f"{value.name} is {value.dtype}{value.shape}"))
                    continue
                _rewrite(node, value)
                changes.append(Note(module_path(node), f"{value.name} is returned by a copy"))
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, value: ir.Value) -> None:
    """Let a Reshape of ``value`` be the output, under its name."""
    readers = [(use.node, use.idx) for use in value.uses()]
    edit, shape = Replacement(node), static(value)
    assert shape is not None
    made = edit.op(node.op_type, node.inputs, dict(node.attributes), shape=shape, domain=node.domain)
    edit.finish(edit.op("Reshape", [made, edit.constant("copied", list(shape))], shape=shape))
    for reader, index in readers:
        reader.replace_input_with(index, made)
