"""Bring every operator that has several spellings to one, so that what follows has few forms to know.

One function an operator: it either replaces the node and says how, or leaves it. The functions run over the graph until
nothing changes. What they leave behind is the canonical set; anything else in a graph is there because no simpler form is
exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, bypass, same_shape, static
from m4c.rules import used_once
from m4c.weights import derive, small, stored

ROUNDS = 8
"""More rounds than any chain of rewrites here needs; reaching it is a bug."""

Rewrite = Callable[[ir.Node], str | None]


def _gemm(node: ir.Node) -> str | None:
    """Gemm(x, W, b) → Add(MatMul(x, W), b)."""
    x, weight, *bias = node.inputs
    assert x is not None
    assert weight is not None
    if (
        attribute(node, "alpha", 1.0) != 1
        or attribute(node, "beta", 1.0) != 1
        or attribute(node, "transA", 0)
    ):
        return None
    edit, shape = Replacement(node), node.outputs[0].shape
    if attribute(node, "transB", 0):
        assert weight.shape is not None
        weight = edit.op(
            "Transpose", [weight], {"perm": [1, 0]}, shape=weight.shape[::-1], dtype=weight.dtype
        )
    made = edit.op("MatMul", [x, weight], shape=shape)
    if bias and bias[0] is not None:
        made = edit.op("Add", [made, bias[0]], shape=shape)
    edit.finish(made)
    return "Gemm became MatMul and Add"


def _reshape_like(node: ir.Node) -> str | None:
    """Squeeze, Unsqueeze and Flatten → Reshape, where at most one dimension is not a number."""
    shape, data = node.outputs[0].shape, node.inputs[0]
    assert shape is not None
    assert data is not None
    target = [d if isinstance(d, int) else -1 for d in shape]
    if target.count(-1) > 1:
        return None
    edit = Replacement(node)
    to = edit.constant("shape", np.array(target, np.int64))
    edit.finish(edit.op("Reshape", [data, to], shape=shape))
    return f"{node.op_type} became Reshape"


def _reshape(node: ir.Node) -> str | None:
    """Two Reshapes in a row → the second; a Reshape to the same shape → nothing."""
    data = node.inputs[0]
    assert data is not None
    if same_shape(data, node.outputs[0]) and bypass(node, data):
        return "Reshape to its own shape removed"
    before = data.producer()
    target = small(node.inputs[1])
    if before is not None and before.op_type == "Reshape" and target is not None and 0 not in target:
        node.replace_input_with(0, before.inputs[0])
        return "two Reshapes became one"
    return None


def _pow(node: ir.Node) -> str | None:
    """x² → x · x."""
    exponent = small(node.inputs[1])
    if exponent is None or exponent.size != 1 or exponent.item() != 2:
        return None
    edit = Replacement(node)
    edit.finish(edit.op("Mul", [node.inputs[0], node.inputs[0]], shape=node.outputs[0].shape))
    return "Pow by 2 became Mul"


def _mul(node: ir.Node) -> str | None:
    """x · 1/y → x / y; x · 1 → x."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        assert value is not None
        assert other is not None
        maker = value.producer()
        if maker is not None and maker.op_type == "Reciprocal":
            edit = Replacement(node)
            edit.finish(edit.op("Div", [other, maker.inputs[0]], shape=node.outputs[0].shape))
            return "Mul by a Reciprocal became Div"
        values = small(value)
        if (
            values is not None
            and values.size == 1
            and values.item() == 1
            and same_shape(other, node.outputs[0])
        ):
            return "Mul by 1 removed" if bypass(node, other) else None
    return None


def _reciprocal(node: ir.Node) -> str | None:
    """1/y where nothing multiplies it → Div(1, y)."""
    if all(user.op_type == "Mul" for user, _ in node.outputs[0].uses()):
        return None
    edit = Replacement(node)
    one = edit.constant("one", 1.0)
    edit.finish(edit.op("Div", [one, node.inputs[0]], shape=node.outputs[0].shape))
    return "Reciprocal became Div"


def _neg(node: ir.Node) -> str | None:
    """-x → x · -1."""
    if node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    edit = Replacement(node)
    edit.finish(
        edit.op("Mul", [node.inputs[0], edit.constant("minus_one", -1.0)], shape=node.outputs[0].shape)
    )
    return "Neg became Mul"


def _split(node: ir.Node) -> str | None:
    """Split → one Slice a part."""
    data, axis = node.inputs[0], attribute(node, "axis", 0)
    assert data is not None
    sizes = [out.shape[axis] if out.shape is not None else None for out in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return None
    edit, start, parts = Replacement(node), 0, []
    for index, (size, out) in enumerate(zip(sizes, node.outputs, strict=True)):
        assert isinstance(size, int)
        bounds = [
            edit.constant(f"part{index}.{name}", np.array([number], np.int64))
            for name, number in (("start", start), ("end", start + size), ("axis", axis))
        ]
        parts.append(edit.op("Slice", [data, *bounds], shape=out.shape))
        start += size
    edit.finish(*parts)
    return f"Split became {len(parts)} Slices"


def _gather_nd(node: ir.Node) -> str | None:
    """GatherND over single indices → Gather on axis 0."""
    data, indices = node.inputs
    assert data is not None
    assert indices is not None
    maker = indices.producer()
    if attribute(node, "batch_dims", 0) or indices.shape is None or indices.shape[-1] != 1:
        return None
    if maker is None or maker.op_type not in ("Unsqueeze", "Reshape") or maker.inputs[0] is None:
        return None
    source = maker.inputs[0]
    if source.shape is None or ir.Shape([*source.shape, 1]) != indices.shape:
        return None
    edit = Replacement(node)
    edit.finish(edit.op("Gather", [data, source], {"axis": 0}, shape=node.outputs[0].shape))
    return "GatherND became Gather"


def _gather(node: ir.Node) -> str | None:
    """Gather of one stored row, or of all rows in order → Slice with Reshape, or the table itself."""
    data, indices = node.inputs
    assert data is not None
    picked, axis = small(indices), attribute(node, "axis", 0)
    if picked is None or data.shape is None:
        return None
    rows = data.shape[axis]
    if picked.ndim == 1 and isinstance(rows, int) and np.array_equal(picked, np.arange(rows)):
        return "Gather of all rows removed" if bypass(node, data) else None
    if picked.size != 1 or not (isinstance(rows, int) or picked.item() >= 0):
        return None
    first = int(picked.item()) % rows if isinstance(rows, int) else int(picked.item())
    edit, sliced = Replacement(node), [*data.shape]
    sliced[axis % len(sliced)] = 1
    bounds = [
        edit.constant(name, np.array([number], np.int64))
        for name, number in (("start", first), ("end", first + 1), ("axis", axis % len(sliced)))
    ]
    part = edit.op("Slice", [data, *bounds], shape=sliced)
    target = [d if isinstance(d, int) else -1 for d in node.outputs[0].shape or ()]
    if target.count(-1) > 1:
        return None
    to = edit.constant("shape", np.array(target, np.int64))
    edit.finish(edit.op("Reshape", [part, to], shape=node.outputs[0].shape))
    return "Gather of one row became Slice"


def _broadcast(node: ir.Node) -> str | None:
    """Expand that a broadcasting consumer makes needless → nothing."""
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    if same_shape(data, output) and bypass(node, data):
        return f"{node.op_type} to its own shape removed"
    if node.op_type != "Expand" or output.is_graph_output():
        return None
    for user, index in output.uses():
        if user.op_type not in BROADCASTING or len(user.inputs) != 2:
            return None
        other = user.inputs[1 - index]
        if other is None or other is output or not same_shape(other, user.outputs[0]):
            return None
    return "Expand before broadcasting removed" if bypass(node, data) else None


BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div"})


def _cast(node: ir.Node) -> str | None:
    """Cast to the dtype it has → nothing."""
    data = node.inputs[0]
    assert data is not None
    if data.dtype == node.outputs[0].dtype and bypass(node, data):
        return "Cast to its own dtype removed"
    return None


def _identity(node: ir.Node) -> str | None:
    """Identity → nothing, except where it makes an output of the graph."""
    data = node.inputs[0]
    assert data is not None
    return "Identity removed" if bypass(node, data) else None


def _div(node: ir.Node) -> str | None:
    """x / max(‖x‖₂, tiny) → LpNormalization: equal wherever ‖x‖₂ > tiny, and 0 at x = 0 in both."""
    x, bound = node.inputs
    chain = []
    value = bound
    for wanted in ("Expand", "Clip", "ReduceL2"):
        maker = value.producer() if value is not None else None
        if maker is not None and maker.op_type == wanted:
            chain.append(maker)
            value = maker.inputs[0]
        elif wanted != "Expand":
            return None
    norm, clip = chain[-1], chain[-2]
    low, axes = small(clip.inputs[1]), small(norm.inputs[1]) if len(norm.inputs) > 1 else None
    if value is not x or x is None or x.shape is None or axes is None or axes.size != 1:
        return None
    if low is None or not 0 < low.item() <= TINY or (len(clip.inputs) > 2 and clip.inputs[2] is not None):
        return None
    edit, axis = Replacement(node), int(axes.item()) % len(x.shape)
    edit.finish(edit.op("LpNormalization", [x], {"axis": axis, "p": 2}, shape=node.outputs[0].shape))
    return "division by the norm became LpNormalization"


TINY = 1e-6
"""A lower bound on a norm up to this is there against division by zero, not part of the model."""


def _batch_normalization(node: ir.Node) -> str | None:
    """BatchNormalization after a Conv → part of its weights, lazily."""
    x, *statistics = node.inputs
    assert x is not None
    conv = x.producer()
    if conv is None or conv.op_type != "Conv" or not used_once(x) or attribute(node, "training_mode", 0):
        return None
    weight, *rest = conv.inputs[1:]
    bias = rest[0] if rest else None
    if weight is None or not stored(weight) or not all(stored(v) for v in statistics if v is not None):
        return None
    if bias is not None and not stored(bias):
        return None
    scale, shift, mean, variance = (v.const_value for v in statistics if v is not None)
    epsilon, old = float(attribute(node, "epsilon", 1e-5)), bias.const_value if bias is not None else None

    def gain() -> np.ndarray:
        return np.asarray(scale.numpy() / np.sqrt(variance.numpy() + np.float32(epsilon)), np.float32)

    def folded_bias(_: np.ndarray) -> np.ndarray:
        before = old.numpy() if old is not None else np.float32(0)
        return np.asarray((before - mean.numpy()) * gain() + shift.numpy(), np.float32)

    shape, first = static(weight), statistics[1]
    assert shape is not None
    assert first is not None
    edit = Replacement(node)
    kernel = edit.weight(
        derive(weight, "normalized", lambda w: w * gain().reshape(-1, *[1] * (w.ndim - 1)), shape=shape)
    )
    offset = edit.weight(derive(first, "folded", folded_bias, shape=(shape[0],)))
    attributes = {name: a.value for name, a in conv.attributes.items()}
    made = edit.op("Conv", [conv.inputs[0], kernel, offset], attributes, shape=x.shape)
    edit.finish(made)
    return "BatchNormalization became part of the Conv before it"


FORMS: dict[str, Rewrite] = {
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Div": _div,
    "Expand": _broadcast,
    "Flatten": _reshape_like,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Identity": _identity,
    "Mul": _mul,
    "Neg": _neg,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Reshape": _reshape,
    "Split": _split,
    "Squeeze": _reshape_like,
    "Tile": _broadcast,
    "Unsqueeze": _reshape_like,
}


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Rewrite each operator that has a simpler exact form.

    Before: ``Gemm``, ``Squeeze``, ``Pow(x, 2)``, ``x · 1/√v``. After: ``MatMul + Add``, ``Reshape``, ``x · x``, ``x / √v``.
    """

    name: ClassVar[str] = "canonicalize"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Apply the forms until none applies."""
        changes: list[Note] = []
        for _ in range(ROUNDS):
            made = [note for node in model.graph if (note := _apply(node)) is not None]
            if not made:
                return Result(model, modified=bool(changes), changes=tuple(changes))
            changes += made
            ir.passes.common.RemoveUnusedNodesPass()(model)
        raise RuntimeError(f"still changing after {ROUNDS} rounds: {changes[-1].text}")


def _apply(node: ir.Node) -> Note | None:
    """Try the form of one node."""
    form = FORMS.get(node.op_type)
    if form is None or node.domain not in ("", "ai.onnx"):
        return None
    where = module_path(node)
    text = form(node)
    return Note(where, text) if text is not None else None
