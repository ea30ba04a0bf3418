"""The weights of a TFLite artifact as its operators understand them: what was written is read again, not what was meant."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as tfl

from m4c.blockwise import Blocks, BlockwiseWeight, from_nibbles, whole
from m4c.grid import Grid
from m4c.targets.emit_tflite.flat import SIGNATURE, ByChannel, Grouped
from m4c.targets.emit_tflite.opened import Opened
from m4c.weights import Array, Recipe, array, part

Op = tfl.BuiltinOperator


def read_back(path: Path, signature: str = SIGNATURE) -> dict[str, Recipe]:
    """Return the dequantized matrices (outputs, inputs) of the artifact at ``path``, lazily, by the names of the weights."""
    opened = Opened(path, signature)
    makers = {index: operator for operator in opened.operators for index in operator.outputs}
    found = [factor(opened, operator, makers) for operator in opened.operators]
    found += [_table(opened, operator, makers) for operator in opened.operators]
    return {weight.name: weight.dequantized() for weight in whole(w for w in found if w is not None)}


def factor(opened: Opened, operator: Any, makers: dict[int, Any]) -> BlockwiseWeight | None:
    """Return the matrix on a grid that ``operator`` multiplies by, if it does; ``makers`` tells what makes each tensor."""
    if opened.code(operator) != Op.FULLY_CONNECTED:
        return None
    tensor, codes = opened.tensors[operator.inputs[1]], opened.source(operator.inputs[1])
    outputs, inputs = tensor.shape
    order = _order(opened, makers.get(operator.inputs[0]), _name(tensor.name))
    match tensor.weights:
        case Grouped(scales=index, size=size):
            grid, scales = Grid(4, size, short=True), opened.source(index)
        case ByChannel(scales=scales):
            grid = Grid(8, None, short=True)
        case None:
            return None
    groups = inputs // grid.size(inputs)

    def rows(span: slice) -> Blocks:
        held = torch.from_numpy(part(codes, span))
        if grid.bits == 4:
            held = from_nibbles(held ^ 0x88, inputs)
        scale = np.asarray(part(scales, span), np.float32).reshape(-1, groups)
        return _blocks(held, torch.from_numpy(scale), grid)

    return BlockwiseWeight(_name(tensor.name), (outputs, inputs), grid, rows, order)


def _table(opened: Opened, operator: Any, makers: dict[int, Any]) -> BlockwiseWeight | None:
    """Return the table of which ``operator`` multiplies gathered rows by gathered scales, if it does."""
    if opened.code(operator) != Op.MUL:
        return None
    cast, scaled = (makers.get(index) for index in operator.inputs)
    if cast is None or opened.code(cast) != Op.CAST:
        return None
    gathered = makers.get(cast.inputs[0])
    gathers = [g for g in (gathered, scaled) if g is not None and opened.code(g) == Op.GATHER]
    if len(gathers) != 2 or not all(opened.stored(gather.inputs[0]) for gather in gathers):
        return None
    codes, scales = (opened.source(gather.inputs[0]) for gather in gathers)
    shape = codes.shape.numpy()
    grid = Grid(8, None, short=True)

    def rows(span: slice) -> Blocks:
        return _blocks(torch.from_numpy(part(codes, span)), torch.from_numpy(part(scales, span)), grid)

    return BlockwiseWeight(_name(str(codes.name)), (shape[0], shape[1]), grid, rows)


def _blocks(codes: torch.Tensor, scales: torch.Tensor, grid: Grid) -> Blocks:
    """Return rows as a grid has them: codes of 8 bits are signed in the file."""
    if grid.bits == 8:
        codes = (codes.to(torch.int16) + grid.middle).to(torch.uint8)
    return Blocks(codes, scales, torch.full(scales.shape, grid.middle, dtype=torch.uint8))


def _name(tensor: str) -> str:
    return tensor.removesuffix(".q")


def _order(opened: Opened, gather: Any, name: str) -> Array | None:
    """Return the order in which the inputs are gathered before the product, if they are."""
    if gather is None or opened.code(gather) != Op.GATHER or not opened.stored(gather.inputs[1]):
        return None
    order = opened.source(gather.inputs[1])
    return array(order) if order.name == f"{name}.order" else None
