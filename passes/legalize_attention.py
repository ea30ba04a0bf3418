"""Attention in operators that work value by value and along single axes: no product of two computed matrices, no softmax.

An accelerator without BATCH_MATMUL still multiplies, adds up and takes maxima. All heads are computed at once, with the
channels as the last axis, so that nothing is transposed and no more than three axes are larger than 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import Unlike, expect_axis, is_op, known, made_by, only_reader, producer_of
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quant import keep_extremes, set_bounds
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import small

HEADS_BACK, KEYS_BACK, KEYS_TURNED = (0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2)


@dataclass(frozen=True, slots=True)
class _Attention:
    """Queries [B, H, T, D], keys and values [B, H, S, D] in one of their forms; ``last`` makes the result [B, H, T, D]."""

    queries: ir.Value
    keys: ir.Value
    """Turned, [B, H, D, S]."""
    values: ir.Value
    scale: float
    masks: tuple[ir.Value, ...]
    """Each broadcasts to [B, H, T, S] and is the same for all heads."""
    last: ir.Node


class _Exact(Replacement):
    """Nodes whose results calibration does not cut: the largest products and weights make the sums."""

    def op(self, *arguments: Any, **options: Any) -> ir.Value:
        """Add one node and return its output."""
        made = super().op(*arguments, **options)
        keep_extremes(made)
        return made


@dataclass(frozen=True)
class LegalizeAttention(Pass):
    """Rewrite every attention of heads.

    Before, for queries of T positions, S keys, H heads and C channels: ``y = MatMul(Softmax(MatMul(q, k) · scale + mask), v)``.
    After, with channels last::

        s = ReduceSum(heads of q [T, 1, C] · k [1, S, C]) + mask;  e = exp(s - ReduceMax(s))          [T, S, H]
        r = 1 / Sqrt(ReduceSum(e));  y = ReduceSum(channels of (e · r) · v [1, S, C]) · channels of r  [T, C]

    The weights are normalized one half before and one half behind the sum: they span the root of what they would span else,
    and so do their sums. ``exp(x) = σ(x) · (1 / Sqrt(1 - σ(x)))²``. Exact in floats. ``channels of`` repeats each head's
    number for its channels, a product by a constant matrix of zeros and ones. A single query is computed
    with the heads first, as caches are, and needs no such product.

    No value is larger than ``largest`` bytes in int8: queries are cut into stretches. What an Edge TPU takes is not
    published; the bound is our choice. Attention whose products of single values have more than ``most`` bytes in all stays
    as it is: the 1500 positions of Whisper tiny.en would have 864 MB in each of four layers, at every call.
    """

    largest: int = 4 << 20
    most: int = 128 << 20

    name: ClassVar[str] = "legalize-attention"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each attention that qualifies; every other softmax is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "Softmax")]:
            try:
                found = _read(node)
                pieces = self._rewrite(found)
            except Unlike as reason:
                misses.append(Note(module_path(node), f"the attention stays as it is: {reason}"))
                continue
            changes.append(Note(module_path(node), f"attention without softmax, in {pieces} pieces"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))

    def _rewrite(self, found: _Attention) -> int:
        """Replace the node that makes the result; return in how many pieces."""
        batch, heads, steps, width = _dims(found.queries)
        count = _dims(found.keys)[3]
        if steps == 1 and batch == 1:
            edit = _Exact(found.last)
            edit.finish(_one_query(edit, found))
            return 1
        if batch * steps * count * heads * width > self.most:
            raise Unlike(
                f"its products of single values have {batch * steps * count * heads * width} bytes, {self.most} are allowed"
            )
        rows = self.largest // (count * heads * width)
        if not rows:
            raise Unlike(
                f"one query needs {count * heads * width} bytes beside all keys, {self.largest} are allowed"
            )
        back = _back(found.last.outputs[0])
        edit = _Exact(back or found.last)
        q, k, v = _rows(edit, found.queries, found.scale), _rows(edit, found.keys), _rows(edit, found.values)
        samples = [
            _sample(edit, found, [_piece(edit, value, 0, n, n + 1) for value in (q, k, v)], n, rows)
            for n in range(batch)
        ]
        whole = _joined(edit, samples, 0)
        shape = (batch, steps, heads, width)
        result = edit.op("Reshape", [whole, edit.constant("split", shape)], shape=shape)
        if back is None:
            result = edit.op("Transpose", [result], {"perm": HEADS_BACK}, shape=_dims(found.queries))
        edit.finish(result)
        return batch * -(-steps // rows)


def _read(softmax: ir.Node) -> _Attention:
    """Return the attention that ``softmax`` weighs the values of.

    Raises:
        Unlike: if it is none, or of another form.
    """
    expect_axis(softmax, 3, "the softmax")
    last = only_reader(softmax.outputs[0], "MatMul", "its weights")
    value, scale, masks = known(softmax.inputs[0]), 1.0, list[ir.Value]()
    shape = _dims(value)
    while not made_by(value, "MatMul"):
        node = value.producer()
        if node is None or not (is_op(node, "Add") or is_op(node, "Mul")):
            raise Unlike(f"its scores {value.name} come from no product")
        data, other = (known(operand) for operand in node.inputs)
        if static(data) != shape:
            data, other = other, data
        if is_op(node, "Add"):
            if scale != 1.0:
                raise Unlike(f"{other.name} is added to its scores before they are scaled")
            _expect_mask(other, shape)
            masks.append(other)
        else:
            factor = small(other)
            if factor is None or factor.size != 1:
                raise Unlike(f"its scores are multiplied by {other.name}")
            scale *= float(factor.item())
        value = data
    product = producer_of(value, "MatMul", "the scores")
    queries, keys, values = known(product.inputs[0]), known(product.inputs[1]), known(last.inputs[1])
    batch, heads, _, width = _dims(queries)
    count = shape[3]
    if _dims(keys) != (batch, heads, width, count) or _dims(values) != (batch, heads, count, width):
        raise Unlike(f"keys are {keys.shape}, values {values.shape}, for queries {queries.shape}")
    return _Attention(queries, keys, values, scale, tuple(masks), last)


def _expect_mask(mask: ir.Value, scores: Sequence[int]) -> None:
    """Refuse what is added to the scores if it is not the same for all heads."""
    shape = static(mask)
    if shape is None or len(shape) != 4 or shape[1] != 1 or shape[3] != scores[3]:
        raise Unlike(f"{mask.name} {mask.shape} is added to scores {list(scores)}")


def _dims(value: ir.Value) -> tuple[int, ...]:
    """Return the static shape of a value of four dimensions."""
    shape = static(value)
    if shape is None or len(shape) != 4:
        raise Unlike(f"{value.name} is {value.shape}, not four numbers")
    return shape


def _back(result: ir.Value) -> ir.Node | None:
    """Return the node that alone reads ``result`` and puts its heads behind its positions."""
    uses = tuple(result.uses())
    if len(uses) != 1 or result.is_graph_output() or not is_op(uses[0].node, "Transpose"):
        return None
    return uses[0].node if attribute(uses[0].node, "perm") == HEADS_BACK else None


def _rows(edit: Replacement, value: ir.Value, scale: float = 1.0) -> ir.Value:
    """Return queries, values [B, H, T, D] or turned keys [B, H, D, T] as [B, T, H · D], from before they were transposed."""
    maker, turned = value.producer(), None
    factor = small(maker.inputs[1]) if maker is not None and is_op(maker, "Mul") else None
    if maker is not None and factor is not None and factor.size == 1:
        return _rows(edit, known(maker.inputs[0]), scale * float(factor.item()))
    if (
        maker is not None
        and is_op(maker, "Transpose")
        and attribute(maker, "perm") in (HEADS_BACK, KEYS_BACK)
    ):
        turned = known(maker.inputs[0])
    elif maker is not None and is_op(maker, "Transpose") and attribute(maker, "perm") == KEYS_TURNED:
        return _rows(edit, known(maker.inputs[0]), scale)
    if turned is None:
        batch, heads, steps, width = _dims(value)
        turned = edit.op("Transpose", [value], {"perm": HEADS_BACK}, shape=(batch, steps, heads, width))
    batch, steps, heads, width = _dims(turned)
    shape = (batch, steps, heads * width)
    before = turned.producer()
    flat = before.inputs[0] if before is not None and is_op(before, "Reshape") else None
    if flat is None or static(flat) != shape:
        flat = _shaped(edit, turned, shape)
    if scale == 1.0:
        return flat
    return edit.op("Mul", [flat, edit.constant(f"scale{scale!r}", scale)], shape=shape)


def _sample(
    edit: Replacement, found: _Attention, rows: Sequence[ir.Value], number: int, most: int
) -> ir.Value:
    """Return the result of one sample of a batch, [1, T, H · D]."""
    queries, keys, values = rows
    _, heads, steps, width = _dims(found.queries)
    count = _dims(found.keys)[3]
    channels = heads * width
    k, v = (_shaped(edit, part, (1, 1, count, channels)) for part in (keys, values))
    spread = edit.constant(f"channels{channels}", np.kron(np.eye(heads), np.ones((1, width))).astype("f"))
    made = []
    for start in range(0, steps, most):
        stop = min(start + most, steps)
        q = _shaped(edit, _piece(edit, queries, 1, start, stop), (1, stop - start, 1, channels))
        products = edit.op("Mul", [q, k], shape=(1, stop - start, count, channels))
        split = _shaped(edit, products, (1, (stop - start) * count, heads, width))
        axis = edit.constant("axis3", [3])
        summed = edit.op(
            "ReduceSum", [split, axis], {"keepdims": 0}, shape=(1, (stop - start) * count, heads)
        )
        scores = _shaped(edit, summed, (1, stop - start, count, heads))
        for mask in found.masks:
            cut = _piece(edit, mask, 0, number, number + 1)
            cut = _piece(edit, cut, 2, start, stop)
            scores = edit.op(
                "Add", [scores, _shaped(edit, cut, (1, *(static(cut) or ())[2:], 1))], shape=scores.shape
            )
        weights, root = _weights(edit, scores, 2)
        weights = edit.op("MatMul", [weights, spread], shape=(1, stop - start, count, channels))
        set_bounds(weights, 0.0, 1.0)
        root = edit.op("MatMul", [root, spread], shape=(1, stop - start, 1, channels))
        made.append(_shaped(edit, _weighed(edit, weights, v, root, 2), (1, stop - start, channels)))
    return _joined(edit, made, 1)


def _one_query(edit: Replacement, found: _Attention) -> ir.Value:
    """Return the result [1, H, 1, D] of a single query, with the heads first."""
    _, heads, _, width = _dims(found.queries)
    count = _dims(found.keys)[3]
    q = found.queries
    if found.scale != 1.0:
        q = edit.op("Mul", [q, edit.constant("scale", found.scale)], shape=q.shape)
    maker = found.keys.producer()
    if maker is not None and is_op(maker, "Transpose") and attribute(maker, "perm") == KEYS_TURNED:
        k = known(maker.inputs[0])
    else:
        k = edit.op("Transpose", [found.keys], {"perm": KEYS_TURNED}, shape=(1, heads, count, width))
    products = edit.op("Mul", [q, k], shape=(1, heads, count, width))
    axis = edit.constant("axis3", [3])
    scores = edit.op("ReduceSum", [products, axis], {"keepdims": 1}, shape=(1, heads, count, 1))
    for mask in found.masks:
        scores = edit.op("Add", [scores, _shaped(edit, mask, (1, 1, count, 1))], shape=scores.shape)
    weights, root = _weights(edit, scores, 2)
    return _weighed(edit, weights, found.values, root, 2)


def _weights(edit: Replacement, scores: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """Return the weights times the root of their sum, and 1 / that root: the weights of a softmax are their product."""
    shape = _dims(scores)
    one = tuple(1 if d == axis else size for d, size in enumerate(shape))
    axes = edit.constant(f"axis{axis}", [axis])
    most = edit.op("ReduceMax", [scores, axes], {"keepdims": 1}, shape=one)
    exponential = _exponential(edit, edit.op("Sub", [scores, most], shape=shape))
    total = edit.op("ReduceSum", [exponential, axes], {"keepdims": 1}, shape=one)
    root = _inverse_root(edit, total)
    set_bounds(root, 0.0, 1.0)
    weights = edit.op("Mul", [exponential, root], shape=shape)
    set_bounds(weights, 0.0, 1.0)
    return weights, root


def _exponential(edit: Replacement, x: ir.Value) -> ir.Value:
    """Return exp(x) for x ≤ 0, as σ(x) / (1 - σ(x))."""
    shape = x.shape
    part = edit.op("Sigmoid", [x], shape=shape)
    rest = edit.op("Sub", [edit.constant("one", 1.0), part], shape=shape)
    set_bounds(rest, 0.0, 1.0)
    root = _inverse_root(edit, rest)
    set_bounds(root, 0.0, 2**0.5)
    half = edit.op("Mul", [part, root], shape=shape)
    set_bounds(half, 0.0, 0.5**0.5)
    whole = edit.op("Mul", [half, root], shape=shape)
    set_bounds(whole, 0.0, 1.0)
    return whole


def _inverse_root(edit: Replacement, x: ir.Value) -> ir.Value:
    return edit.op("Reciprocal", [edit.op("Sqrt", [x], shape=x.shape)], shape=x.shape)


def _weighed(edit: Replacement, weights: ir.Value, values: ir.Value, root: ir.Value, axis: int) -> ir.Value:
    """Return the sum of ``values`` over ``axis``, weighed, times ``root``."""
    shape = tuple(max(pair) for pair in zip(_dims(weights), _dims(values), strict=True))
    products = edit.op("Mul", [weights, values], shape=shape)
    one = tuple(1 if d == axis else size for d, size in enumerate(shape))
    axes = edit.constant(f"axis{axis}", [axis])
    total = edit.op("ReduceSum", [products, axes], {"keepdims": 1}, shape=one)
    return edit.op("Mul", [total, root], shape=one)


def _shaped(edit: Replacement, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Return ``value`` in another shape."""
    if static(value) == tuple(shape):
        return value
    name = "x".join(map(str, shape))
    return edit.op("Reshape", [value, edit.constant(f"shape{name}", list(shape))], shape=shape)


def _piece(edit: Replacement, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
    """Return a stretch of ``value`` along ``axis``; all of it where that has size 1 or is no longer."""
    shape = static(value)
    assert shape is not None
    if shape[axis] in (1, stop - start):
        return value
    bounds = [edit.constant(f"index{number}", [number]) for number in (start, stop, axis)]
    cut = [stop - start if d == axis else size for d, size in enumerate(shape)]
    return edit.op("Slice", [value, *bounds], shape=cut)


def _joined(edit: Replacement, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    """Return ``parts`` side by side along ``axis``."""
    if len(parts) == 1:
        return parts[0]
    first = static(parts[0])
    assert first is not None
    total = sum((static(part) or ())[axis] for part in parts)
    shape = [total if d == axis else size for d, size in enumerate(first)]
    return edit.op("Concat", list(parts), {"axis": axis}, shape=shape)
