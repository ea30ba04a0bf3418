"""BatchNormalization as a product and a sum, where no convolution before it could take it in."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute
from m4c.weights import Array, array, lazy, stored, stored_value


@dataclass(frozen=True)
class DecomposeBatchNorm(Pass):
    """Rewrite every BatchNormalization of stored statistics of x [N, C, …].

    Before: ``y = BatchNormalization(x, gamma, beta, mean, variance)``. After: ``y = x · s + t`` with the recipes
    ``s = gamma / √(variance + epsilon)`` and ``t = beta - mean · s``, of one number a channel.
    """

    name: ClassVar[str] = "decompose-batch-norm"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each node that qualifies; the others are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "BatchNormalization")]:
            reason = _obstacle(node)
            if reason:
                misses.append(Note(module_path(node), f"BatchNormalization stays as it is: {reason}"))
                continue
            _rewrite(node)
            changes.append(Note(module_path(node), "BatchNormalization became Mul and Add"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _obstacle(node: ir.Node) -> str:
    """Return why ``node`` cannot be rewritten, or nothing."""
    if attribute(node, "training_mode", 0) or any(output.uses() for output in node.outputs[1:]):
        return "it takes the statistics of its input"
    if not all(stored(value) for value in node.inputs[1:]):
        return "its statistics are computed"
    if any(value is not None and value.dtype != ir.DataType.FLOAT for value in node.inputs):
        return "it is not float32"
    x = node.inputs[0]
    return "" if x is not None and x.shape is not None else "the rank of its input is unknown"


def _rewrite(node: ir.Node) -> None:
    x, *operands = node.inputs
    assert x is not None
    assert x.shape is not None
    held = [value.const_value for value in operands if value is not None]
    gamma, beta, mean, variance = (tensor for tensor in held if tensor is not None)
    epsilon = np.float32(attribute(node, "epsilon", 1e-5))
    column = (gamma.shape.numpy()[0], *(1 for _ in x.shape[2:]))

    def scale() -> Array:
        return np.asarray(array(gamma) / np.sqrt(array(variance) + epsilon)).reshape(column)

    def offset() -> Array:
        return np.asarray(array(beta).reshape(column) - array(mean).reshape(column) * scale())

    edit, shape = Replacement(node), node.outputs[0].shape
    name = node.outputs[0].name
    factor, added = (
        edit.weight(stored_value(lazy(f"{name}.{suffix}", ir.DataType.FLOAT, column, read)))
        for suffix, read in (("gain", scale), ("shift", offset))
    )
    edit.finish(edit.op("Add", [edit.op("Mul", [x, factor], shape=shape), added], shape=shape))
