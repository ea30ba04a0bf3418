"""Queries, keys and values of an attention by one product with all their matrices."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.blockwise import BlockwiseWeight, stacked
from m4c.model import module_path
from m4c.pipeline import Note, Pass, Result
from m4c.rewrite import Replacement
from m4c.weights import stored_value


@dataclass(frozen=True)
class StackProducts(Pass):
    """Multiply once for each attention, where its three products have one input and matrices on one kind of grid.

    Before: ``GroupQueryAttention(MatMul(x, Q), MatMul(x, K), MatMul(x, V), …)``, each matrix dequantized in blocks.
    After: ``GroupQueryAttention(MatMul(x, [Q, K, V]), , , …)``, which takes the heads apart itself.
    Weights with one scale a channel stay: nothing packs them.
    A kernel rounds ``x`` to integers, starts its threads and waits for them once for all three. (Two products that a Split
    would have to take apart again, such as the MLP's, gain less than the Split costs.) No matrix is stored twice: where
    another product reads one too, or its inputs are in an order of its own, the products stay as they are.
    """

    name: ClassVar[str] = "stack-products"

    def call(self, model: ir.Model) -> Result:
        """Rewrite each attention that qualifies."""
        changes, misses = [], []
        for attention in [node for node in model.graph if node.op_type == "GroupQueryAttention"]:
            products = [None if value is None else value.producer() for value in attention.inputs[:3]]
            weights = [weight for product in products if (weight := _weight(product)) is not None]
            inputs = {product.inputs[0] for product in products if product is not None}
            if len(weights) < 3 or len(inputs) > 1 or len({weight.grid for weight in weights}) > 1:
                misses.append(Note(module_path(attention), "its products differ in more than their outputs"))
                continue
            (x,) = inputs
            _rewrite(attention, x, stacked(weights))
            changes.append(Note(module_path(attention), "its products are one"))
        if changes:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _weight(product: ir.Node | None) -> BlockwiseWeight | None:
    """Return the matrix on a grid that ``product`` multiplies by, if nothing else needs either."""
    if product is None or product.op_type != "MatMul":
        return None
    if len(product.outputs[0].uses()) > 1 or product.outputs[0].is_graph_output():
        return None
    codes = _codes(product.inputs[1])
    weight = getattr(codes.const_value if codes is not None else None, "origin", None)
    if not isinstance(weight, BlockwiseWeight) or weight.order is not None or weight.grid.group is None:
        return None
    return weight if len(codes.uses()) == 1 else None  # type: ignore[union-attr]


def _codes(values: ir.Value | None) -> ir.Value | None:
    """Return the codes that ``values`` are dequantized from for a single product."""
    maker = values.producer() if values is not None and len(values.uses()) == 1 else None
    return maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else None


def _rewrite(attention: ir.Node, x: ir.Value | None, weight: BlockwiseWeight) -> None:
    """Let ``attention`` take the product of ``x`` with ``weight`` whole."""
    edit, query = Replacement(attention), attention.inputs[0]
    assert query is not None
    dequantize: ir.Node = query.producer().inputs[1].producer()  # type: ignore[union-attr, assignment]
    stored = [edit.weight(stored_value(tensor)) for tensor in weight.turned() if tensor is not None]
    values = edit.op(
        "DequantizeLinear",
        stored,
        dict(dequantize.attributes),
        shape=weight.shape[::-1],
        dtype=query.dtype,
    )
    shape = None if query.shape is None else ir.Shape([*query.shape[:-1], weight.shape[0]])
    product = edit.op("MatMul", [x, values], shape=shape, dtype=query.dtype)
    edit.before()
    for index, value in enumerate((product, None, None)):
        attention.replace_input_with(index, value)
