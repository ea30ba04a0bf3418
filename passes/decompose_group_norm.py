"""GroupNormalization and InstanceNormalization in operators that have integer kernels.

torch's group norm is captured as an InstanceNormalization between two Reshapes, with scale and bias of the channels behind
them. All of that is one norm here, whose result is one product and one sum: in eight bits every further step rounds again.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import Unlike, is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import Array, derive, small, stored


@dataclass(frozen=True, slots=True)
class _Norm:
    """``x`` [N, C, …] normalized in ``groups`` of channels, times ``scale``, plus ``bias``; ``last`` makes the result."""

    x: ir.Value
    groups: int
    epsilon: float
    scale: ir.Value
    bias: ir.Value
    last: ir.Node


@dataclass(frozen=True)
class DecomposeGroupNorm(Pass):
    """Rewrite every normalization of groups of channels, or of single channels, of x [N, C, …].

    Before: ``y = GroupNormalization(x, gamma, beta)``. After, per group of g = Reshape(x, [N, groups, C / groups, rest])::

        m = ReduceMean(g);  d = g - m;  r = Reciprocal(Sqrt(ReduceMean(d · d) + epsilon))
        s = r · gamma;  y = x · s + (beta - m · s)

    where s and what is added have one number a channel. In int8, the U-Net and the VAE of m4-nano are as accurate as with
    the norms in float.
    """

    name: ClassVar[str] = "decompose-group-norm"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each norm that qualifies; the others are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if _is_norm(n)]:
            where = module_path(node)
            try:
                norm = _read(node)
            except Unlike as reason:
                misses.append(Note(where, f"{node.op_type} stays as it is: {reason}"))
                continue
            _rewrite(norm)
            changes.append(Note(where, f"{node.op_type} in {norm.groups} groups decomposed"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(norm: _Norm) -> None:
    """Replace the node that makes the norm's result; what was before it is left without readers."""
    edit, x = Replacement(norm.last), norm.x
    n, channels, *size = _sizes(x)
    inner = channels // norm.groups
    shape, one, column = (
        (n, norm.groups, inner, prod(size)),
        (n, norm.groups, 1, 1),
        (n, norm.groups, inner, 1),
    )
    axes = edit.constant("axes", [2, 3])
    grouped = edit.op("Reshape", [x, edit.constant("grouped", shape)], shape=shape)
    mean = edit.op("ReduceMean", [grouped, axes], {"keepdims": 1}, shape=one)
    centred = edit.op("Sub", [grouped, mean], shape=shape)
    squares = edit.op("Mul", [centred, centred], shape=shape)
    variance = edit.op("ReduceMean", [squares, axes], {"keepdims": 1}, shape=one)
    variance = edit.op("Add", [variance, edit.constant("epsilon", norm.epsilon)], shape=one)
    inverse = edit.op("Reciprocal", [edit.op("Sqrt", [variance], shape=one)], shape=one)
    scale = _shaped(edit, norm.scale, channels, (norm.groups, inner, 1))
    factor = edit.op("Mul", [inverse, scale], shape=column)
    moved = edit.op("Mul", [mean, factor], shape=column)
    rows = (n, channels, *(1 for _ in size))
    target = edit.constant("rows", rows)
    factor, moved = (edit.op("Reshape", [v, target], shape=rows) for v in (factor, moved))
    bias = _shaped(edit, norm.bias, channels, rows[1:])
    offset = edit.op("Sub", [bias, moved], shape=rows)
    product = edit.op("Mul", [x, factor], shape=x.shape)
    edit.finish(edit.op("Add", [product, offset], shape=x.shape))


def _is_norm(node: ir.Node) -> bool:
    return is_op(node, "GroupNormalization") or is_op(node, "InstanceNormalization")


def _read(node: ir.Node) -> _Norm:
    """Return the norm that ``node`` computes, with what torch put around it.

    Raises:
        Unlike: if a shape is not static, or scale and bias are neither those of groups nor of channels.
    """
    x, scale, bias = (known(value) for value in node.inputs)
    channels = _sizes(x)[1]
    groups = attribute(node, "num_groups") if is_op(node, "GroupNormalization") else channels
    for value in (
        scale,
        bias,
    ):  # up to opset 20, GroupNormalization has one number a group, later one a channel
        if static(value) != (channels,) and not (stored(value) and static(value) == (groups,)):
            raise Unlike(f"{value.name} is {value.shape}, for {groups} groups of {channels} channels")
    norm = _Norm(x, groups, attribute(node, "epsilon", 1e-5), scale, bias, node)
    return _around(norm) if is_op(node, "InstanceNormalization") else norm


def _around(norm: _Norm) -> _Norm:
    """Return ``norm`` with the Reshapes around it and the scale and bias behind, if they are torch's group norm."""
    split = norm.x.producer()
    joined = _only_reader(norm.last, "Reshape")
    plain = _all(norm.scale, 1) and _all(norm.bias, 0)
    if split is None or joined is None or not is_op(split, "Reshape") or not plain:
        return norm
    x = known(split.inputs[0])
    whole, parts = static(x), _sizes(norm.x)
    if whole is None or static(joined.outputs[0]) != whole or len(whole) < 2 or len(parts) != 3:
        return norm
    if whole[0] != parts[0] or whole[1] % parts[1]:
        return norm
    scale, last = _stored_column(joined, "Mul", whole)
    bias, last = _stored_column(last, "Add", whole)
    return _Norm(x, parts[1], norm.epsilon, scale or norm.scale, bias or norm.bias, last)


def _stored_column(node: ir.Node, kind: str, whole: tuple[int, ...]) -> tuple[ir.Value | None, ir.Node]:
    """Return the stored operand, one number a channel, of the ``kind`` that alone reads ``node``, and that node."""
    reader = _only_reader(node, kind)
    if reader is None:
        return None, node
    other = next((v for v in reader.inputs if v is not node.outputs[0]), None)
    shape = static(other)
    if other is None or not stored(other) or shape is None or len(shape) > len(whole):
        return None, node
    channel = (1, whole[1], *(1 for _ in whole[2:]))
    return (other, reader) if shape == channel[len(channel) - len(shape) :] else (None, node)


def _only_reader(node: ir.Node, kind: str) -> ir.Node | None:
    """Return the one node that reads the result of ``node``, if it is of that kind."""
    uses = tuple(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or not is_op(uses[0].node, kind):
        return None
    return uses[0].node


def _all(value: ir.Value | None, number: float) -> bool:
    """Return whether ``value`` is a constant that holds nothing but ``number``."""
    held = small(value)
    return held is not None and bool((held == number).all())


def _sizes(value: ir.Value, least: int = 2) -> tuple[int, ...]:
    """Return the static shape of ``value``, of at least so many dimensions."""
    shape = static(value)
    if shape is None or len(shape) < least:
        raise Unlike(f"the shape of {value.name} is {value.shape}, not static")
    return shape


def _shaped(edit: Replacement, value: ir.Value, channels: int, shape: tuple[int, ...]) -> ir.Value:
    """Return ``value``, of one number a channel or a group, in ``shape``, of one a channel: a recipe if it is stored."""
    if not stored(value):
        return edit.op("Reshape", [value, edit.constant("column", shape)], shape=shape)
    repeats = channels // prod(_sizes(value, 1))

    def change(held: Array) -> Array:
        return np.repeat(held.reshape(-1), repeats).reshape(shape)

    return edit.weight(derive(value, "x".join(map(str, shape)), change, shape=shape))
