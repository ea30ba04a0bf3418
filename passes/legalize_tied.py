"""A stored matrix that is turned around at run time, because a table has it too."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import attribute, static
from m4c.weights import Array, Transposed, array, lazy, register, stored, stored_value


@dataclass(frozen=True)
class LegalizeTied(Pass):
    """Store every stored matrix that is transposed a second time, turned around.

    Before: ``y = MatMul(x, Transpose(table))``, where ``table`` is looked up too. After: ``y = MatMul(x, table.turned)``. The
    table is the host's, the matrix the accelerator's: neither reads the other's memory.
    """

    name: ClassVar[str] = "legalize-tied"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each transposition of a stored matrix."""
        changes = []
        for node in [n for n in model.graph if is_op(n, "Transpose") and stored(n.inputs[0])]:
            weight, output = node.inputs[0], node.outputs[0]
            if attribute(node, "perm") != (1, 0) or output.is_graph_output() or weight is None:
                continue
            tensor, shape = weight.const_value, static(output)
            assert tensor is not None
            assert shape is not None

            def read(held: ir.TensorProtocol = tensor) -> Array:
                return array(held).T

            made = lazy(f"{weight.name}.turned", tensor.dtype, shape, read, origin=Transposed(tensor))
            output.replace_all_uses_with(register(model.graph, stored_value(made)))
            changes.append(Note(module_path(node), f"{weight.name} is stored turned around too"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes))
