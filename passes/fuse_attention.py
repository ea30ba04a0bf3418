"""Attention with rotary angles and a growing cache as one operator of ONNX Runtime."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.attention_form import Attention, read_attention, weighs_cache
from m4c.passes.properties import typed
from m4c.passes.reading import Unlike
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import MICROSOFT, Added
from m4c.weights import Array, constant, derive, register

HEAD_STEP = 16
"""ONNX Runtime 1.32 turns heads of multiples of this: "head_size shall be a multiple of 16"."""


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Turn each rotary attention on a cache into ``com.microsoft::GroupQueryAttention``, for ONNX Runtime.

    Before, with q, k, v (batch, steps, heads · head_dim), of k and v maybe fewer heads::

        turn(x) = x · cos[positions] + swap(x) · sin[positions]
        keys = Concat(past_keys, turn(heads(k)));  values = Concat(past_values, heads(v))
        y = join(Softmax(turn(heads(q)) · keysᵀ · scale + mask) · values)

    After, with the tables' half that differs, and total the last size of the mask::

        y, keys, values = GroupQueryAttention(
            q, k, v, past_keys, past_values, total - 1, total, cos, sin, positions, mask)

    The operator adds the mask and, besides, hides from each step those that follow it: so do the masks of whatever has a
    cache, since a cached step could not look at later ones. It takes no more steps than the tables have rows, and several
    new steps after others only of a batch of 1: a larger batch is fused if it has one new step at a time.
    """

    name: ClassVar[str] = "fuse-attention"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each attention that qualifies; those that look like one are misses."""
        changes, misses = [], []
        lengths: dict[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value]] = {}
        for softmax in [node for node in model.graph if weighs_cache(node)]:
            where = module_path(softmax)
            try:
                found = read_attention(softmax)
                _check(found)
            except Unlike as reason:
                misses.append(Note(where, f"attention stays as it is: {reason}"))
                continue
            ends = found.mask, found.turn.positions
            if ends not in lengths:
                lengths[ends] = _lengths(model.graph, *ends)
            _fuse(model.graph, found, *lengths[ends])
            changes.append(
                Note(
                    where, f"attention of {found.query.heads} heads on {found.key.heads} became one operator"
                )
            )
        if changes:
            model.graph.opset_imports.setdefault(MICROSOFT, 1)
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _check(found: Attention) -> None:
    """Refuse sizes that the operator has no kernel for."""
    if found.query.head_dim % HEAD_STEP:
        raise Unlike(f"heads of {found.query.head_dim} are no multiple of {HEAD_STEP}")
    if found.query.batch != 1 and found.query.steps != 1:
        raise Unlike(f"several steps after others need a batch of 1, this one is {found.query.batch}")


def _fuse(graph: ir.Graph, found: Attention, last: ir.Value, total: ir.Value) -> None:
    """Replace the nodes that make the result and the grown cache by one."""
    old = (found.joined, found.keys, found.values)
    tables = [_half(graph, found.turn.cos, upper=False), _half(graph, found.turn.sin, upper=True)]
    operands = [found.query.source, found.key.source, found.value.source]
    operands += [found.keys.inputs[0], found.values.inputs[0], last, total]  # type: ignore[list-item]
    made = ir.node(
        "GroupQueryAttention",
        [*operands, *tables, found.turn.positions, found.mask],
        {
            "num_heads": found.query.heads,
            "kv_num_heads": found.key.heads,
            "scale": found.scale,
            "do_rotary": 1,
            "rotary_interleaved": 0,
        },
        domain=MICROSOFT,
        num_outputs=3,
        name=f"{found.joined.name}.attention",
    )
    made.metadata_props.update(found.joined.metadata_props)
    replaced = [node.outputs[0] for node in old]
    for value, before in zip(made.outputs, replaced, strict=True):
        value.name, value.type, value.shape = before.name, before.type, before.shape
    ir.convenience.replace_nodes_and_values(graph, found.joined, [], [made], replaced, made.outputs)
    graph.remove(old, safe=True)


def _half(graph: ir.Graph, table: ir.Value, *, upper: bool) -> ir.Value:
    """Return the half of a table (positions, head_dim) that the operator reads: of signed sines the positive one."""
    assert table.shape is not None
    rows, size = table.shape.numpy()

    def cut(values: Array) -> Array:
        return values[:, size // 2 :] if upper else values[:, : size // 2]

    return register(graph, derive(table, "half", cut, shape=(rows, size // 2)))


def _lengths(graph: ir.Graph, mask: ir.Value, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the place of the last step (batch) and the number of steps (scalar), int32, from the last size of the mask."""
    nodes = Added(graph, str(mask.name))
    sizes = nodes.op("Shape", [mask], "sizes", ir.DataType.INT64, [4])
    index = constant(graph, f"{mask.name}.steps.axis", np.array(3, np.int64))
    wide = nodes.op("Gather", [sizes, index], "steps.wide", ir.DataType.INT64, [], axis=0)
    total = nodes.op("Cast", [wide], "steps", ir.DataType.INT32, [], to=ir.DataType.INT32)
    one = constant(graph, f"{mask.name}.one", np.array(1, np.int32))
    last = nodes.op("Sub", [total, one], "last", ir.DataType.INT32, [])
    assert positions.shape is not None
    batch = positions.shape[0]
    if isinstance(batch, int):
        rows = constant(graph, f"{mask.name}.batch", np.array([batch], np.int64))
    else:
        rows = nodes.op("Shape", [positions], "batch", ir.DataType.INT64, [1], start=0, end=1)
    lasts = nodes.op("Expand", [last, rows], "lasts", ir.DataType.INT32, [batch])
    nodes.put_behind(mask, positions)
    return lasts, total
