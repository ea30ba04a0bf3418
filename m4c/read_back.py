"""The weights of an artifact as its operators understand them: what was written is read again, not what was meant."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from m4c import read_back_tflite
from m4c.blockwise import Blocks, BlockwiseWeight, from_nibbles, whole
from m4c.grid import Grid
from m4c.rewrite import PARTS, attribute
from m4c.targets.emit_tflite import SIGNATURE
from m4c.weights import Array, Recipe, array


def read_back(path: Path, signature: str = SIGNATURE) -> dict[str, Recipe]:
    """Return the dequantized matrices (outputs, inputs) of the artifact at ``path``, lazily, by the names of the weights.

    ``signature`` is whose operators are looked at, in a TFLite file.
    """
    if path.suffix == ".tflite":
        return read_back_tflite.read_back(path, signature)
    found: list[BlockwiseWeight] = []
    for node in ir.load(path).graph:
        if node.op_type == "MatMulNBits":
            weight = _packed(node)
            if PARTS in node.metadata_props:
                found += _parts(node, weight)
                continue
        elif node.op_type == "DequantizeLinear" and _stored(node.inputs[0]) is not None:
            weight = _turned(node)
        elif node.op_type == "DequantizeLinear":
            weight = _table(node)
        else:
            continue
        found.append(weight)
    return {weight.name: weight.dequantized() for weight in whole(found)}


def _parts(node: ir.Node, product: BlockwiseWeight) -> list[BlockwiseWeight]:
    """Return the matrices of a product that multiplies by several at once."""
    found, end = [], 0
    for name, outputs in json.loads(node.metadata_props[PARTS]).items():
        begin, end = end, end + outputs

        def rows(span: slice, begin: int = begin) -> Blocks:
            return product.rows(slice(begin + span.start, begin + span.stop))

        found.append(BlockwiseWeight(name, (outputs, product.shape[1]), product.grid, rows))
    return found


def _packed(node: ir.Node) -> BlockwiseWeight:
    """Return the matrix of a MatMulNBits."""
    codes, scales, zeros = (_stored(value) for value in (*node.inputs[1:4], None)[:3])
    assert codes is not None
    bits, inputs, outputs = (attribute(node, key) for key in ("bits", "K", "N"))
    grid = Grid(bits, attribute(node, "block_size"), zeros is None)
    groups = inputs // grid.size(inputs)
    name = str(codes.name).removesuffix(".packed")

    def rows(span: slice) -> Blocks:
        high = _unpacked(_rows(codes, span, (outputs, inputs * bits // 8), np.dtype(np.uint8)), bits, inputs)
        zero = (
            torch.full((span.stop - span.start, groups), grid.middle, dtype=torch.uint8)
            if zeros is None
            else _unpacked(
                _rows(zeros, span, (outputs, (groups * bits + 7) // 8), np.dtype(np.uint8)), bits, groups
            )
        )
        return Blocks(
            high, torch.from_numpy(_rows(scales, span, (outputs, groups), np.dtype(np.float32))), zero
        )

    return BlockwiseWeight(name, (outputs, inputs), grid, rows, _order(node, name))


def _turned(node: ir.Node) -> BlockwiseWeight:
    """Return the matrix that a DequantizeLinear gives inputs first."""
    codes, scales, zeros = (_stored(value) for value in (*node.inputs, None)[:3])
    assert codes is not None
    assert scales is not None
    inputs, outputs = codes.shape.numpy()
    symmetric = codes.dtype in (ir.DataType.INT4, ir.DataType.INT8)
    grid = Grid(codes.dtype.bitwidth, _group(node), symmetric)
    name = str(codes.name).removesuffix(".q")
    groups = inputs // grid.size(inputs)

    def unsigned(tensor: ir.TensorProtocol, shape: tuple[int, int]) -> Array:
        values = array(tensor).reshape(shape).astype(np.int16).T
        return (values + (grid.middle if symmetric else 0)).astype(np.uint8)

    def rows(span: slice) -> Blocks:
        zero = (
            np.full((outputs, groups), grid.middle, np.uint8)
            if zeros is None
            else unsigned(zeros, (groups, outputs))
        )
        scale = np.ascontiguousarray(array(scales).reshape(groups, outputs).T)
        made = unsigned(codes, (inputs, outputs)), scale, zero
        return Blocks(*(torch.from_numpy(np.array(values[span], order="C")) for values in made))

    return BlockwiseWeight(name, (outputs, inputs), grid, rows, _order(node, name), step=outputs)


def _table(node: ir.Node) -> BlockwiseWeight:
    """Return the table from which codes and scales are gathered before they are dequantized."""
    codes, scales = (_stored(value.producer().inputs[0]) for value in node.inputs[:2])  # type: ignore[union-attr]
    assert codes is not None
    count, width = codes.shape.numpy()
    shape = (count, width)
    group = attribute(node, "block_size")
    grid = Grid(8, None if group == width else group)
    groups = shape[1] // grid.size(shape[1])

    def rows(span: slice) -> Blocks:
        signed = torch.from_numpy(_rows(codes, span, shape, np.dtype(np.int8)))
        unsigned = (signed.to(torch.int16) + grid.middle).to(torch.uint8)
        zero = torch.full((span.stop - span.start, groups), grid.middle, dtype=torch.uint8)
        scale = torch.from_numpy(_rows(scales, span, (shape[0], groups), np.dtype(np.float32)))
        return Blocks(unsigned, scale, zero)

    return BlockwiseWeight(str(codes.name).removesuffix(".q"), shape, grid, rows)


def _group(node: ir.Node) -> int | None:
    return attribute(node, "block_size", 0) or None


def _stored(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else value.const_value


def _order(node: ir.Node, name: str) -> Array | None:
    """Return the order in which the inputs are gathered before the product, if they are."""
    product = node if node.op_type == "MatMulNBits" else next(iter(node.outputs[0].consumers()))
    x = product.inputs[0]
    gather = None if x is None else x.producer()
    if gather is None or gather.op_type != "Gather":
        return None
    order = gather.inputs[1]
    return array(order.const_value) if order is not None and order.name == f"{name}.order" else None  # type: ignore[arg-type]


def _rows(
    tensor: ir.TensorProtocol | None, span: slice, shape: tuple[int, int], kind: np.dtype[Any]
) -> Array:
    """Return rows of a stored tensor taken as ``shape``, read from its file alone."""
    assert tensor is not None
    if isinstance(tensor, ir.ExternalTensor):
        offset = (tensor.offset or 0) + span.start * shape[1] * kind.itemsize
        return np.memmap(tensor.path, kind, "c", offset, (span.stop - span.start, shape[1]))
    return array(tensor).reshape(shape)[span].copy()


def _unpacked(values: Array, bits: int, count: int) -> torch.Tensor:
    """Return codes uint8 (rows, count) from bytes that hold two each in 4 bits."""
    codes = torch.from_numpy(values)
    return codes if bits == 8 else from_nibbles(codes, count)
