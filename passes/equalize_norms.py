"""Move what a norm scales and shifts its channels by into the linear layers that read them.

A norm makes all channels equally large; its scale makes them differ again, and one step for the whole tensor then suits the
largest. The weights that read them have a scale an output channel and can carry the factors of their inputs instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.ahead import ahead
from m4c.model import module_path
from m4c.pipeline import Note, Pass, Result
from m4c.rewrite import Replacement, static
from m4c.weights import (
    Array,
    array,
    divisible,
    lazy,
    part,
    register,
    stored,
    stored_value,
    stretches,
    turned,
    untransposed,
)

PIECE = 4 << 20
"""Bytes of a matrix that are multiplied at once."""


@dataclass(frozen=True)
class EqualizeNorms(Pass):
    """Fold a scale and a shift of channels into every linear layer that reads them.

    Before: ``y = Add(Mul(n, gamma), beta);  z = Add(MatMul(y, W), b)``, for one or several such ``z``. After::

        z = Add(MatMul(n, diag(gamma)·W), b + beta·W)

    This is SmoothQuant's smoothing with the factor gamma: nothing of it is left in the activations, and two roundings
    fewer. Comes after layer norms are decomposed, which is where such a pair of ``Mul`` and ``Add`` is from.
    """

    name: ClassVar[str] = "equalize-norms"

    def call(self, model: ir.Model) -> Result:
        """Rewrite each pair that only linear layers read; the others are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if n.op_type == "Mul" and not n.domain]:
            gamma = _vector(node)
            if gamma is None:
                continue
            last, beta = _shifted(node)
            readers = [(use.node, use.idx) for use in last.outputs[0].uses()]
            reason = _reason(last, readers)
            if reason:
                misses.append(Note(module_path(node), reason))
                continue
            source = next(v for v in node.inputs if v is not gamma)
            assert source is not None
            for reader, _ in readers:
                _fold(reader, source, gamma, beta)
            changes.append(Note(module_path(node), f"scale of channels folded into {len(readers)} matrices"))
        if changes:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _vector(node: ir.Node) -> ir.Value | None:
    """Return the stored operand of ``node`` with one value for each channel of the other, which is computed."""
    shape = static(node.outputs[0])
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        if value is None or not stored(value) or stored(other) or value.dtype != ir.DataType.FLOAT:
            continue
        if shape is not None and static(value) == shape[-1:] and static(other) == shape:
            return value
    return None


def _shifted(node: ir.Node) -> tuple[ir.Node, ir.Value | None]:
    """Return the Add of a vector that alone reads the scaled value, and the vector; else ``node`` and None."""
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
        beta = _vector(uses[0].node)
        if beta is not None:
            return uses[0].node, beta
    return node, None


def _reason(last: ir.Node, readers: list[tuple[ir.Node, int]]) -> str:
    """Return why what ``last`` makes is not folded, or nothing."""
    if last.outputs[0].is_graph_output():
        return f"{last.outputs[0].name} is an output of the graph"
    for reader, index in readers:
        weight = reader.inputs[1] if reader.op_type == "MatMul" and index == 0 else None
        if weight is None:
            return f"{reader.op_type} reads {last.outputs[0].name}, not a linear layer"
        if not stored(weight) or len(static(weight) or ()) != 2:
            return f"{weight.name} is not a stored matrix"
    return "" if readers else f"nothing reads {last.outputs[0].name}"


def _fold(product: ir.Node, source: ir.Value, gamma: ir.Value, beta: ir.Value | None) -> None:
    """Let ``product`` read ``source`` through a scaled matrix, and add what the shift becomes."""
    graph, weight = product.graph, product.inputs[1]
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    product.replace_input_with(0, source)
    product.replace_input_with(1, register(graph, stored_value(_scaled(weight, gamma))))
    if beta is None:
        return
    output = product.outputs[0]
    add = _bias_of(product)
    if add is not None:
        index = 1 if add.inputs[0] is output else 0
        bias = add.inputs[index]
        assert bias is not None
        add.replace_input_with(index, register(graph, stored_value(_moved(weight, beta, bias))))
        return
    moved = register(graph, stored_value(_moved(weight, beta, None)))
    edit = Replacement(product)
    made = edit.op("MatMul", product.inputs, shape=output.shape)
    edit.finish(edit.op("Add", [made, moved], shape=output.shape))


def _bias_of(product: ir.Node) -> ir.Node | None:
    """Return the Add of a bias that alone reads ``product``."""
    output = product.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != "Add":
        return None
    return uses[0].node if _vector(uses[0].node) is not None else None


def _scaled(weight: ir.Value, gamma: ir.Value) -> ir.TensorProtocol:
    """Return ``weight`` [inputs, outputs] with each row times its ``gamma``."""
    name, tensor, factors = f"{weight.name}.by.{gamma.name}", _tensor(weight), _tensor(gamma)
    matrix = untransposed(tensor)
    if matrix is not None:
        return turned(name, _times(f"{name}.rows", matrix, lambda _: array(factors)))
    return _times(name, tensor, lambda rows: array(factors)[rows, None])


def _times(name: str, matrix: ir.TensorProtocol, factors: Callable[[slice], Array]) -> ir.TensorProtocol:
    """Return ``matrix`` times what ``factors`` gives for some of its rows."""
    dims = matrix.shape.numpy()

    def rows(wanted: slice) -> Array:
        return np.asarray(part(matrix, wanted) * factors(wanted))

    return lazy(
        name, matrix.dtype, dims, lambda: rows(slice(0, dims[0])), rows if divisible(matrix) else None
    )


def _moved(weight: ir.Value, beta: ir.Value, bias: ir.Value | None) -> ir.TensorProtocol:
    """Return ``bias`` + ``beta`` · ``weight`` [outputs], float32, summed in float64."""
    tensor, shift = _tensor(weight), _tensor(beta)
    held, matrix = _tensor(bias) if bias is not None else None, untransposed(tensor)

    def product() -> Array:
        by = array(shift).astype(np.float64)
        if matrix is None:
            return np.asarray(by @ array(tensor).astype(np.float64))
        pieces = ahead(lambda rows: part(matrix, rows).astype(np.float64) @ by, stretches(matrix, PIECE))
        return np.concatenate(list(pieces))

    def values() -> Array:
        return np.asarray(product() + (array(held) if held is not None else 0), np.float32)

    name = f"{bias.name if bias is not None else weight.name}.with.{beta.name}"
    return lazy(name, ir.DataType.FLOAT, tensor.shape.numpy()[1:], values)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value
