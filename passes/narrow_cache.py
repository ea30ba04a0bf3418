"""Caches at the border of a graph in fewer bits than float32."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from m4c import cache
from m4c.half import LOWEST
from m4c.model import operator
from m4c.passes.properties import typed
from m4c.passes.reading import is_op
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import MICROSOFT, Added, bypass
from m4c.weights import Array, constant, derive, register

FLOAT, HALF, CODE, SIZE = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.INT64

ATTENTION = f"{MICROSOFT}::GroupQueryAttention"

ACTIVATIONS, PASTS, TABLES, MASK = (0, 1, 2), (3, 4), (7, 8), 10
"""Operands of GroupQueryAttention by their places."""

Pairs = dict[ir.Value, ir.Value]


@dataclass(frozen=True)
class NarrowCache(Pass):
    """Store every cache, which comes in as ``past`` and goes out as ``present``, in ``dtype``.

    float16, before ``GroupQueryAttention(q, k, v, past, …)`` in float32, after the same in float16, as ONNX Runtime 1.32 on the
    CPU has a kernel where all is in float16, or all in float32: its inputs and its result are cast, its caches are not.
    Elsewhere ``Cast(past)`` is read, and ``Cast(present)`` returned.

    int8: read is ``Cast(past) · past_scale``. Of ``present`` only the new steps are rounded, so that old ones never change::

        new = Slice(present, from the length of past);  scale = max(ReduceMax(|new|) / 127, tiny)
        present = Concat(past, Cast(Round(new / scale)));  present_scale = Concat(past_scale, scale)

    What stores a cache is placed behind all else, that of earlier layers last. ONNX Runtime computes the last result first,
    with what it needs, so no more than a layer is in float32 at a time.

    New steps attend to one another before they are rounded. ONNX Runtime's attention can read int8 itself, but with scales that
    are the same for all steps: they would have to be known before.
    """

    dtype: str

    name: ClassVar[str] = "narrow-cache"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Narrow each cache that is float32."""
        graph = model.graph
        caches = _caches(graph)
        names = [str(past.name) for past in caches]
        if self.dtype == "float16":
            masks: dict[ir.Value, ir.Value] = {}
            for node in _attentions(graph, caches):
                _attend_in_half(graph, node, masks)
                for place in PASTS:
                    del caches[node.inputs[place]]  # type: ignore[arg-type]
        end = graph[-1]
        for past, present in caches.items():
            (_cast if self.dtype == "float16" else _round)(graph, past, present, end)
        if names:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        changes = tuple(Note(name, f"the cache is {self.dtype}") for name in names)
        return Result(model, modified=bool(changes), changes=changes)


def _caches(graph: ir.Graph) -> Pairs:
    """Return the caches of ``graph`` that are float32."""
    pairs = cache.pairs(graph.inputs, graph.outputs)
    whole = cache.without_scales(str(past.name) for past, _ in pairs)
    return {past: present for past, present in pairs if past.dtype == FLOAT and past.name in whole}


def _attentions(graph: ir.Graph, caches: Pairs) -> list[ir.Node]:
    """Return the attentions that are given and return caches themselves, and nothing else that is returned."""
    found = []
    for node in graph:
        if operator(node) != ATTENTION or node.outputs[0].is_graph_output():
            continue
        pasts = [node.inputs[place] for place in PASTS]
        own = all(past in caches and len(past.uses()) == 1 for past in pasts if past is not None)
        if own and [caches.get(past) for past in pasts] == list(node.outputs[1:3]):  # type: ignore[arg-type]
            found.append(node)
    return found


def _attend_in_half(graph: ir.Graph, node: ir.Node, masks: Pairs) -> None:
    """Let an attention compute in float16; ``masks`` are those that were cast before."""
    result = node.outputs[0]
    name, readers = str(result.name), list(result.uses())
    before, after = Added(graph, name), Added(graph, name)
    for place in ACTIVATIONS:
        if (value := node.inputs[place]) is not None:  # keys and values may be in one with the queries
            node.replace_input_with(place, _to_half(before, value, f"operand{place}"))
    for place in TABLES:
        table = _operand(node, place)
        cut = derive(table, "float16", _as_half, shape=_shape(table).numpy(), dtype=HALF)
        node.replace_input_with(place, register(graph, cut))
    mask = _operand(node, MASK)
    if mask not in masks:
        masks[mask] = _limited(graph, node, mask)
    node.replace_input_with(MASK, masks[mask])
    before.put_before(node)
    for value in (*(_operand(node, place) for place in PASTS), *node.outputs):
        value.type = ir.TensorType(HALF)
    result.name = f"{name}.float16"
    wide = after.op("Cast", [result], "float32", FLOAT, _shape(result), to=FLOAT)
    wide.name = name
    after.put_behind(result)
    _replace(readers, wide)


def _limited(graph: ir.Graph, reader: ir.Node, mask: ir.Value) -> ir.Value:
    """Return ``mask`` in float16, made before ``reader``, the first that reads it."""
    nodes = Added(graph, str(mask.name))
    lowest = constant(graph, f"{mask.name}.lowest", np.array(LOWEST, np.float32))
    made = _to_half(nodes, nodes.op("Max", [mask, lowest], "limited", FLOAT, _shape(mask)), "float16")
    nodes.put_before(reader)
    return made


def _operand(node: ir.Node, place: int) -> ir.Value:
    value = node.inputs[place]
    assert value is not None
    return value


def _shape(value: ir.Value) -> ir.Shape:
    assert value.shape is not None  # typed
    return value.shape


def _to_half(nodes: Added, value: ir.Value, suffix: str) -> ir.Value:
    return nodes.op("Cast", [value], suffix, HALF, _shape(value), to=HALF)


def _as_half(values: Array) -> Array:
    return values.astype(np.float16)


def _cast(graph: ir.Graph, past: ir.Value, present: ir.Value, end: ir.Node) -> None:
    """Return a cache cast to float16, after ``end``, and read it cast back; what reads or makes it in float16 has no casts."""
    halves = [node for node in past.consumers() if is_op(node, "Cast") and node.outputs[0].dtype == HALF]
    readers, shape = [use for use in past.uses() if use.node not in halves], _shape(past)
    past.type = ir.TensorType(HALF)
    for cast in halves:
        bypass(cast, past)
    if readers:
        read = Added(graph, str(past.name))
        wide = read.op("Cast", [past], "real", FLOAT, shape, to=FLOAT)
        read.put_before(*(use.node for use in readers))
        _replace(readers, wide)
    maker = present.producer()
    if (
        maker is not None
        and is_op(maker, "Cast")
        and maker.inputs[0] is not None
        and maker.inputs[0].dtype == HALF
    ):
        narrow = maker.inputs[0]
    else:
        written = Added(graph, str(present.name))
        narrow = _to_half(written, present, "stored")
        written.put_after(end)
    _return(graph, present, narrow)


def _round(graph: ir.Graph, past: ir.Value, present: ir.Value, end: ir.Node) -> None:
    """Return a cache in int8, after ``end``, with the scales of its steps beside it, and read it as numbers."""
    readers, shape, grown = list(past.uses()), _shape(past), _shape(present)
    past.type = ir.TensorType(CODE)
    scales = ir.Value(
        name=cache.scale_of(str(past.name)), type=ir.TensorType(FLOAT), shape=ir.Shape([*shape[:3], 1])
    )
    graph.inputs.insert(graph.inputs.index(past) + 1, scales)
    read = Added(graph, str(past.name))
    floats = read.op("Cast", [past], "float", FLOAT, shape, to=FLOAT)
    wide = read.op("Mul", [floats, scales], "real", FLOAT, shape)
    read.put_before(*(use.node for use in readers))
    _replace(readers, wide)
    written = Added(graph, str(present.name))
    codes, steps = _rounded(written, past, present)
    kept = written.op("Concat", [past, codes], "stored", CODE, grown, axis=2)
    factors = written.op("Concat", [scales, steps], "scales", FLOAT, [*grown[:3], 1], axis=2)
    written.put_after(end)
    _return(graph, present, kept)
    factors.name = cache.scale_of(str(kept.name))
    graph.outputs.insert(graph.outputs.index(kept) + 1, factors)


def _rounded(nodes: Added, past: ir.Value, present: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the codes of the steps of ``present`` that ``past`` has not, and their scales."""
    graph, (batch, heads, _, size) = nodes.graph, _shape(present)
    new, one = [batch, heads, None, size], [batch, heads, None, 1]
    axis, last = (constant(graph, f"m4c.axis{number}", np.array([number], np.int64)) for number in (2, 3))
    end = constant(graph, "m4c.end", np.array([np.iinfo(np.int64).max]))
    highest = constant(graph, "m4c.highest", np.array(cache.HIGHEST, np.float32))
    tiny = constant(graph, "m4c.tiny", np.array(cache.SMALLEST_SCALE, np.float32))
    length = nodes.op("Shape", [past], "past", SIZE, [1], start=2, end=3)
    steps = nodes.op("Slice", [present, length, end, axis], "new", FLOAT, new)
    sizes = nodes.op("Abs", [steps], "magnitude", FLOAT, new)
    largest = nodes.op("ReduceMax", [sizes, last], "largest", FLOAT, one, keepdims=1)
    scale = nodes.op("Div", [largest, highest], "step", FLOAT, one)
    scale = nodes.op("Max", [scale, tiny], "scale", FLOAT, one)
    units = nodes.op("Div", [steps, scale], "units", FLOAT, new)
    whole = nodes.op("Round", [units], "whole", FLOAT, new)
    codes = nodes.op("Cast", [whole], "codes", CODE, new, to=CODE)
    return codes, scale


def _return(graph: ir.Graph, value: ir.Value, instead: ir.Value) -> None:
    """Let the graph return ``instead`` under the name of ``value``, which gets another."""
    instead.name, value.name = value.name, f"{value.name}.real"
    graph.outputs[graph.outputs.index(value)] = instead


def _replace(readers: Iterable[Any], value: ir.Value) -> None:
    """Let ``readers`` read ``value``."""
    for use in readers:
        use.node.replace_input_with(use.idx, value)
