"""Weight-only quantization: matrices become small integers with scales; activations stay float."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import torch

from m4c.blockwise import Blocks, BlockwiseWeight, Method, piece
from m4c.errors import UnsupportedError
from m4c.grid import Grid
from m4c.model import module_path
from m4c.pipeline import Note, Pass, Result
from m4c.rewrite import Replacement, attribute
from m4c.rounding.methods import METHODS
from m4c.scales import CONVOLUTIONS
from m4c.scheme import LEAST_OUTPUTS, LITERT_GROUPS, Given, Grids, Scheme
from m4c.weights import (
    Folded,
    Sliced,
    Transposed,
    divisible,
    is_weight,
    part,
    stored_value,
)

KEPT = "the scheme keeps it, or it is computed from several weights"
TIED = "one matrix is both a table and a factor, and cannot be on two grids"
KERNEL = "a convolution, whose kernels stay float"
"""Why weights are not rounded."""

OPSET = 21
"""The first opset whose DequantizeLinear has blocks."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Put every matrix that a MatMul or an embedding's Gather reads on the grid that ``scheme`` gives it.

    Before: ``MatMul(x, W)``. After: ``MatMul(x, DequantizeLinear(codes, scales[, zeros], axis=0, block_size=g))``; for a table
    ``DequantizeLinear(Gather(codes, ids), Gather(scales, ids), axis=-1)``. A matrix that is on a grid already, in the
    checkpoint or by a calibrated method (``given``), keeps its codes. Only tensors of the source are rounded, stored outputs
    first: an artifact is verified against the source with its rounded weights, and what was folded has no place there. Rows
    of one matrix that several products share, as queries, keys and values do, are stored as one piece each.
    """

    scheme: Scheme
    given: Given = field(default_factory=dict, repr=False, compare=False)
    grids: Grids = field(default_factory=dict, repr=False, compare=False)
    """Grids of single matrices, instead of the scheme's."""

    name: ClassVar[str] = "quantize-weights"

    def call(self, model: ir.Model) -> Result:
        """Rewrite each node that reads a matrix."""
        changes: list[Note] = []
        misses: list[Note] = []
        tied, shared = _tied(model.graph), _in_pieces(model.graph)
        for node in list(model.graph):
            where, note, reason = module_path(node), None, KEPT
            if any(value is not None and (_source(value) in tied or _shared(value)) for value in node.inputs):
                reason = TIED
            elif node.op_type == "MatMul" and _matrix(node.inputs[1]):
                note = self._multiplication(node, shared)
            elif node.op_type == "Gather" and _matrix(node.inputs[0]) and attribute(node, "axis", 0) == 0:
                note = self._table(node)
            elif node.op_type in CONVOLUTIONS and node.inputs[1] is not None and is_weight(node.inputs[1]):
                reason = KERNEL
            else:
                continue
            (misses if note is None else changes).append(note or Note(where, reason))
        if changes:
            model.opset_imports[""] = max(OPSET, model.opset_imports[""])
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))

    def _multiplication(self, node: ir.Node, shared: set[str]) -> Note | None:
        """Quantize the right operand of a MatMul."""
        x, turned = node.inputs
        assert x is not None
        assert turned is not None
        weight = self._weight(turned, shared)
        if weight is None:
            return None
        edit = Replacement(node)
        if weight.order is not None:
            order = edit.weight(stored_value(ir.tensor(weight.order, name=f"{weight.name}.order")))
            x = edit.op("Gather", [x, order], {"axis": -1}, shape=x.shape, dtype=x.dtype)
        stored = [edit.weight(stored_value(tensor)) for tensor in weight.turned() if tensor is not None]
        group = weight.grid.group
        placed = {"axis": 1} if group is None else {"axis": 0, "block_size": group}
        values = edit.op("DequantizeLinear", stored, placed, shape=turned.shape)
        edit.finish(edit.op("MatMul", [x, values], shape=node.outputs[0].shape))
        return Note(module_path(node), f"{weight.name} is {weight.grid}")

    def _table(self, node: ir.Node) -> Note | None:
        """Quantize an embedding table."""
        table, ids = node.inputs
        assert table is not None
        assert table.shape is not None
        assert ids is not None
        origin = getattr(table.const_value, "origin", None)
        made = isinstance(origin, BlockwiseWeight) and origin.name != table.name  # scales of a rounded table
        if made or isinstance(origin, Folded):
            return None
        outputs, inputs = table.shape.numpy()
        grid = self.scheme.grid(str(table.name), inputs, table=True)
        if grid is None or any(user is not node for user, _ in table.uses()):
            return None
        assert table.const_value is not None
        rows = Rounded(table.const_value, grid, METHODS["rtn"])
        weight = BlockwiseWeight(str(table.name), (outputs, inputs), grid, rows)
        edit, shape = Replacement(node), node.outputs[0].shape
        assert shape is not None
        codes, scales = (edit.weight(stored_value(tensor)) for tensor in weight.table())
        gathered = edit.op("Gather", [codes, ids], {"axis": 0}, shape=shape, dtype=ir.DataType.INT8)
        factors = edit.op("Gather", [scales, ids], {"axis": 0}, shape=ir.Shape([*shape[:-1], weight.groups]))
        placed = {"axis": len(shape) - 1, "block_size": grid.size(inputs)}
        edit.finish(edit.op("DequantizeLinear", [gathered, factors], placed, shape=shape))
        return Note(module_path(node), f"{weight.name} is {grid}")

    def _weight(self, value: ir.Value, shared: set[str]) -> BlockwiseWeight | None:
        """Return the matrix (outputs, inputs) whose transpose is ``value``, on its grid; None if it stays float.

        ``shared`` are the names of matrices that may be stored in pieces.
        """
        turned = getattr(value.const_value, "origin", None)
        if not isinstance(turned, Transposed):
            return None
        matrix = turned.matrix
        packed = getattr(matrix, "origin", None)
        name = str(matrix.name)
        if isinstance(packed, Sliced):
            name = str(packed.matrix.name)
            return self._rounded(matrix, name, piece(name, packed.rows)) if name in shared else None
        if isinstance(packed, Folded | Transposed):
            return None
        if isinstance(packed, BlockwiseWeight):
            return _for_litert(packed) if self.scheme.litert else packed
        if name in self.given:
            return self.given[name]
        return self._rounded(matrix, name, name)

    def _rounded(self, matrix: ir.TensorProtocol, name: str, stored: str) -> BlockwiseWeight | None:
        """Return ``matrix`` on the grid that the scheme has for ``name``, as the weight ``stored``; None if it stays float."""
        outputs, inputs = matrix.shape.numpy()
        grid = self.grids.get(name) or self.scheme.grid(name, inputs)
        if grid is None:
            return None
        if grid.short and outputs < LEAST_OUTPUTS:
            grid = self.scheme.of(8, inputs)
        rows = Rounded(matrix, grid, self.scheme.rounding)
        return BlockwiseWeight(
            stored, (outputs, inputs), grid, rows, step=None if divisible(matrix) else outputs
        )


def _for_litert(packed: BlockwiseWeight) -> BlockwiseWeight:
    """Return a checkpoint's own codes as LiteRT computes with them, or raise if it does not."""
    grid = packed.grid
    groups = LITERT_GROUPS[grid.bits]
    fits = grid.group is None if not groups else grid.group is not None and grid.group % groups[-1] == 0
    if not grid.symmetric or not fits:
        raise UnsupportedError(
            f"{packed.name} is {grid} in the checkpoint, which LiteRT has no fast kernel for",
            where=packed.name,
            fix="export it as ONNX, or from a checkpoint in float",
        )
    return packed.shortened()


def _tied(graph: ir.Graph) -> set[str]:
    """Return the names of matrices that are both a table and, turned around, multiplied."""
    tables = {_source(n.inputs[0]) for n in graph if n.op_type == "Gather" and _matrix(n.inputs[0])}
    factors = {_source(n.inputs[1]) for n in graph if n.op_type == "MatMul" and _matrix(n.inputs[1])}
    return tables & factors


def _in_pieces(graph: ir.Graph) -> set[str]:
    """Return the names of matrices of the source all of whose rows are factors of products, each row of one of them."""
    pieces: dict[ir.TensorProtocol, list[slice]] = {}
    for value in {node.inputs[1] for node in graph if node.op_type == "MatMul" and _matrix(node.inputs[1])}:
        turned = getattr(value.const_value, "origin", None) if value is not None else None
        origin = getattr(turned.matrix, "origin", None) if isinstance(turned, Transposed) else None
        if isinstance(origin, Sliced) and getattr(origin.matrix, "origin", None) is None:
            pieces.setdefault(origin.matrix, []).append(origin.rows)
    return {str(matrix.name) for matrix, rows in pieces.items() if _covers(rows, matrix.shape.numpy()[0])}


def _covers(rows: list[slice], count: int) -> bool:
    """Return whether every one of ``count`` rows is in exactly one slice, none of which is too small for a kernel."""
    ends = sorted((r.start, r.stop) for r in rows)
    borders = [0, *(stop for _, stop in ends)]
    return (
        [start for start, _ in ends] == borders[:-1]
        and borders[-1] == count
        and all(stop - start >= LEAST_OUTPUTS for start, stop in ends)
    )


def _shared(value: ir.Value) -> bool:
    """Return whether ``value`` is a matrix that is gathered from and, turned around when it runs, multiplied by."""
    return _matrix(value) and {"Gather", "Transpose"} <= {user.op_type for user, _ in value.uses()}


def _source(value: ir.Value | None) -> str:
    """Return the name of the stored matrix that ``value`` is, or is turned around from; nothing if it is computed."""
    tensor = None if value is None else value.const_value
    origin = getattr(tensor, "origin", None)
    found = origin.matrix if isinstance(origin, Transposed) else tensor
    return "" if found is None else str(found.name)


def _matrix(value: ir.Value | None) -> bool:
    """Return whether ``value`` is a stored matrix of floats, too large for a constant."""
    return (
        value is not None
        and is_weight(value)
        and value.dtype == ir.DataType.FLOAT
        and len(value.shape or ()) == 2
    )


@dataclass(frozen=True, slots=True)
class Rounded:
    """Rows of a matrix, read and rounded when they are asked for."""

    matrix: ir.TensorProtocol
    grid: Grid
    method: Method

    def __call__(self, rows: slice) -> Blocks:
        """Return ``rows`` on the grid."""
        # torch takes no array that cannot be written, though this one is only read
        values = np.require(part(self.matrix, rows), requirements=["C", "W"])
        return self.method(torch.from_numpy(values), self.grid)
