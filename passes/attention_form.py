"""Attention on a growing cache with rotary angles, recognized: the parts of it, or the reason why it is something else.

Reading begins at a ``Softmax`` and goes up and down from there. A value on the way that has other readers is refused, as it
would be computed twice.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from m4c.passes.reading import (
    Unlike,
    dims,
    expect,
    expect_axis,
    is_op,
    known,
    made_by,
    only_reader,
    producer_of,
    unscaled,
)
from m4c.passes.rotary_form import SPLIT, Heads, Turn, read_heads, read_rotated
from m4c.rewrite import attribute


@dataclass(frozen=True, slots=True)
class Attention:
    """Queries on cached keys and values, which may have fewer heads.

    ``mask`` broadcasts to (batch, heads, steps, past + steps). ``keys`` and ``values`` are the nodes that grow the cache,
    ``joined`` makes the result (batch, steps, heads · head_dim).
    """

    query: Heads
    key: Heads
    value: Heads
    turn: Turn
    mask: ir.Value
    scale: float
    keys: ir.Node
    values: ir.Node
    joined: ir.Node


def weighs_cache(node: ir.Node) -> bool:
    """Return whether ``node`` is a softmax whose result is multiplied with a concatenation: it looks like such an attention."""
    products = [use.node for use in node.outputs[0].uses() if use.idx == 0 and is_op(use.node, "MatMul")]
    return is_op(node, "Softmax") and any(made_by(p.inputs[1], "Concat") for p in products)


def read_attention(softmax: ir.Node) -> Attention:
    """Return the attention around ``softmax``.

    Raises:
        Unlike: if there is something else, or a value within is needed outside.
    """
    expect_axis(softmax, 3, "the softmax")
    product = only_reader(softmax.outputs[0], "MatMul", "the weights")
    masked = producer_of(softmax.inputs[0], "Add", "what the softmax takes", softmax)
    scored, mask = masked.inputs
    if not made_by(unscaled(scored, masked)[1], "MatMul"):
        scored, mask = mask, scored
    late, scores, reader = unscaled(scored, masked)
    dot = producer_of(scores, "MatMul", "the scores", reader)
    left, queries, reader = unscaled(dot.inputs[0], dot)
    early, grouped = 1.0, None
    if made_by(queries, "Reshape"):
        grouped = producer_of(queries, "Reshape", "the shared queries", reader)
        early, queries, reader = unscaled(grouped.inputs[0], grouped)
    query, turn = read_rotated(queries, "the query", reader)
    right, keys = _keys(dot)
    key, other = read_rotated(keys.inputs[1], "the key", keys)
    if other != turn:
        raise Unlike("query and key are turned by different angles")
    values = _cache(product.inputs[1], product, "the values")
    value = read_heads(values.inputs[1], "the value", values)
    groups = _groups(query, key, value, grouped)
    joined = _joined(product, query, groups)
    _check_cache(keys, values, query, key, value)
    found = _unrepeated(known(mask), groups)
    _check_mask(found, query, keys, groups)
    scale = float(np.float32(late * left * early * right))
    if scale == 0 or not np.isfinite(scale):  # to the operator, 0 means 1/√head_dim
        raise Unlike(f"the scores are scaled by {scale}")
    return Attention(query, key, value, turn, found, scale, keys, values, joined)


def _keys(dot: ir.Node) -> tuple[float, ir.Node]:
    """Return the node that grows the keys, which ``dot`` takes transposed, and the factor between."""
    factor, value, reader = unscaled(dot.inputs[1], dot)
    turned = producer_of(value, "Transpose", "the transposed keys", reader)
    if tuple(attribute(turned, "perm", ())) != (0, 1, 3, 2):
        raise Unlike(f"the keys are transposed by {attribute(turned, 'perm')}, not (0, 1, 3, 2)")
    return factor, _cache(turned.inputs[0], turned, "the keys")


def _cache(value: ir.Value | None, reader: ir.Node, what: str) -> ir.Node:
    """Return the node that appends new steps to past ones; its result may be an output, but has one reader within."""
    grown = producer_of(value, "Concat", what)
    expect_axis(grown, 2, f"the cache of {what}")
    if len(grown.inputs) != 2:
        raise Unlike(f"{what} are concatenated of {len(grown.inputs)} parts")
    if any(use.node is not reader for use in grown.outputs[0].uses()):
        raise Unlike(f"{what} {grown.outputs[0].name} have other uses")
    return grown


def _groups(query: Heads, key: Heads, value: Heads, grouped: ir.Node | None) -> int:
    """Return how many heads of the queries share one of the keys."""
    if (key.heads, key.head_dim) != (value.heads, value.head_dim) or query.head_dim != key.head_dim:
        raise Unlike("keys and values have other heads than each other, or of another size than the queries")
    groups = query.heads // key.heads
    if query.heads != groups * key.heads or (groups > 1) != (grouped is not None):
        raise Unlike(f"{query.heads} heads of queries do not share {key.heads} of keys as steps")
    if grouped is not None:
        expect(grouped.inputs[0], (query.batch, query.heads, query.steps, query.head_dim), "the query")
        found = dims(grouped.outputs[0])
        expect(grouped.outputs[0], (query.batch, key.heads, found[2], query.head_dim), "the shared query")
    return groups


def _joined(product: ir.Node, query: Heads, groups: int) -> ir.Node:
    """Return the node that makes (batch, steps, heads · head_dim) of what the weights gave."""
    result = product.outputs[0]
    if groups > 1:
        result = only_reader(result, "Reshape", "the result").outputs[0]
    expect(result, (query.batch, query.heads, query.steps, query.head_dim), "the result")
    turned = only_reader(result, "Transpose", "the result")
    if tuple(attribute(turned, "perm", ())) != SPLIT:
        raise Unlike(f"the result is transposed by {attribute(turned, 'perm')}, not {SPLIT}")
    joined = only_reader(turned.outputs[0], "Reshape", "the result")
    expect(joined.outputs[0], dims(query.source), "the joined result")
    return joined


def _check_cache(keys: ir.Node, values: ir.Node, query: Heads, key: Heads, value: Heads) -> None:
    """Refuse caches of different lengths, and new steps that are not those of the queries."""
    past = dims(keys.inputs[0])
    expect(keys.inputs[0], (query.batch, key.heads, past[2], key.head_dim), "the past of the keys")
    expect(values.inputs[0], past, "the past of the values")
    if not (query.batch, query.steps) == (key.batch, key.steps) == (value.batch, value.steps):
        raise Unlike("queries, keys and values are of different steps")


def _unrepeated(mask: ir.Value, groups: int) -> ir.Value:
    """Return the mask of one head, where it is repeated for each head of a group, whose steps follow one another."""
    if groups == 1:
        return mask
    repeated = producer_of(mask, "Concat", "the mask of the shared queries")
    expect_axis(repeated, 2, "the mask")
    if len(repeated.inputs) != groups or len(set(repeated.inputs)) != 1:
        raise Unlike(f"the mask is not one mask, {groups} times")
    return known(repeated.inputs[0])


def _check_mask(mask: ir.Value, query: Heads, keys: ir.Node, groups: int) -> None:
    """Refuse a mask that does not broadcast to the scores along batch and heads alone."""
    found, total = dims(mask), dims(keys.outputs[0])[2]
    if (
        len(found) != 4
        or found[0] not in (1, query.batch)
        or found[1] not in ((1, query.heads) if groups == 1 else (1,))
    ):
        raise Unlike(f"the mask is {list(found)}, for {query.heads} heads")
    expect(mask, (*found[:2], query.steps, total), "the mask")
