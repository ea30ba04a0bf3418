"""LSTM and GRU as their steps, written out one after another: products, sums, sigmoids and hyperbolic tangents.

What all steps compute from the input alone is one product before them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import Unlike, is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, attribute, static
from m4c.weights import Array, array, derive, lazy, small, stored, stored_value

GATES = {"LSTM": 4, "GRU": 3}
"""How many gates each has; the rows of its weights are those of one gate after another."""

DEFAULTS = {"clip": None, "activations": None, "input_forget": 0, "layout": 0}
"""Attributes that must be ONNX's own, that is, torch's."""


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction of ``node``: x of ``steps`` times ``batch`` rows, and a state of ``size`` numbers each."""

    node: ir.Node
    edit: Replacement
    index: int
    steps: int
    batch: int
    size: int

    def weight(self, operand: int, suffix: str, change: Callable[[Array], Array], *shape: int) -> ir.Value:
        """Return the recipe of a part of a stored operand, whose first axis is that of directions."""
        value, index = known(self.node.inputs[operand]), self.index
        return self.edit.weight(
            derive(
                value, f"{suffix}{index}", lambda held: np.ascontiguousarray(change(held[index])), shape=shape
            )
        )

    def op(self, kind: str, inputs: Sequence[ir.Value], *shape: int, **attributes: int) -> ir.Value:
        """Add one node with a float result."""
        return self.edit.op(kind, inputs, attributes, shape=shape)

    def rows(self, value: ir.Value, axis: int, begin: int, end: int) -> ir.Value:
        """Return ``value`` [rows, columns] cut along ``axis``."""
        sizes = list(static(value) or ())
        sizes[axis] = end - begin
        bounds = [
            self.edit.constant(f"{name}{number}", [number])
            for name, number in (("from", begin), ("to", end), ("axis", axis))
        ]
        return self.op("Slice", [value, *bounds], *sizes)

    def gates(self, value: ir.Value, *places: int) -> list[ir.Value]:
        """Return the gates at ``places`` of ``value`` [batch, gates · size]."""
        return [self.rows(value, 1, place * self.size, (place + 1) * self.size) for place in places]


@dataclass(frozen=True)
class UnrollRecurrent(Pass):
    """Write out every LSTM and GRU of stored weights, of at most ``most`` steps in a direction.

    Before: ``y, h, c = LSTM(x, W, R, B)``. After, with all of x·Wᵀ + b at once, for each step::

        i, o, f, g = x_t + h · Rᵀ;  c = σ(f) · c + σ(i) · tanh(g);  h = σ(o) · tanh(c)

    and of a GRU ``z, r`` likewise, ``n = tanh(x_t + r · (h · Rᵀ + b))``, ``h = n + z · (h - n)``.
    """

    most: int = 512

    name: ClassVar[str] = "unroll-recurrent"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each node that qualifies; the others are misses."""
        changes, misses = [], []
        for node in [n for n in model.graph if any(is_op(n, kind) for kind in GATES)]:
            where = module_path(node)
            try:
                steps = _rewrite(node, self.most)
            except Unlike as reason:
                misses.append(Note(where, f"{node.op_type} stays as it is: {reason}"))
                continue
            changes.append(Note(where, f"{node.op_type} written out in {steps} steps"))
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, most: int) -> int:
    """Replace ``node`` and return how many steps it has; raise Unlike if it is another one."""
    x, names = known(node.inputs[0]), ("forward", "reverse", "bidirectional")
    shape, direction = static(x), attribute(node, "direction", "forward")
    _check(node)
    if shape is None:
        raise Unlike(f"the shape of {x.name} is {x.shape}, not static")
    steps, batch, width = shape
    if steps > most:
        raise Unlike(f"it has {steps} steps, more than {most}")
    size, edit = int(attribute(node, "hidden_size")), Replacement(node)
    flat = edit.op(
        "Reshape", [x, edit.constant("flat", [steps * batch, width])], shape=(steps * batch, width)
    )
    made = []
    for index in range(1 + (direction == names[2])):
        backward = direction == names[1] or index == 1
        one = _Direction(node, edit, index, steps, batch, size)
        order = range(steps - 1, -1, -1) if backward else range(steps)
        made.append(_lstm(one, flat, order) if node.op_type == "LSTM" else _gru(one, flat, order))
    edit.finish(*_results(edit, made, (steps, batch, size))[: len(node.outputs)])
    return steps


def _check(node: ir.Node) -> None:
    """Raise Unlike if ``node`` does not compute what torch's does, or its weights are not stored."""
    for name, default in DEFAULTS.items():
        if attribute(node, name, default) != default:
            raise Unlike(f"its {name} is {attribute(node, name)}")
    if node.op_type == "GRU" and not attribute(node, "linear_before_reset", 0):
        raise Unlike("it resets before the product (linear_before_reset=0)")
    if len(node.inputs) < 4 or not all(stored(value) for value in node.inputs[1:4]):
        raise Unlike("its weights are computed, or it has no bias")
    if any(value is not None for value in (*node.inputs[4:5], *node.inputs[7:8])):
        raise Unlike("it has lengths of sequences, or peepholes")


def _start(one: _Direction, operand: int) -> ir.Value | None:
    """Return the state [batch, size] that a direction begins with, None if it is known to be 0."""
    value = one.node.inputs[operand] if len(one.node.inputs) > operand else None
    held = small(value)
    if value is None or (held is not None and not held.any()):
        return None
    if stored(value):
        return one.weight(operand, "start", lambda part: part, one.batch, one.size)
    cut = one.edit.op(
        "Slice",
        [value, *(one.edit.constant(f"at{n}", [n]) for n in (one.index, one.index + 1, 0))],
        shape=(1, one.batch, one.size),
    )
    return one.op("Reshape", [cut, one.edit.constant("state", [one.batch, one.size])], one.batch, one.size)


def _products(
    one: _Direction, flat: ir.Value, joined: int
) -> tuple[ir.Value, Callable[[ir.Value | None], ir.Value]]:
    """Return x·Wᵀ + b of all steps, and what makes h·Rᵀ + b of a state; ``joined`` gates have both biases before the steps."""
    gates = GATES[one.node.op_type] * one.size
    width, held = (static(flat) or (0, 0))[1], joined * one.size

    def before(bias: Array) -> Array:
        return np.concatenate([bias[:held] + bias[gates : gates + held], bias[held:gates]])

    def behind(bias: Array) -> Array:
        return np.concatenate([np.zeros_like(bias[:held]), bias[gates + held :]])

    matrix = one.weight(1, "turned", np.transpose, width, gates)
    given = one.op("MatMul", [flat, matrix], one.steps * one.batch, gates)
    given = one.op("Add", [given, one.weight(3, "before", before, gates)], one.steps * one.batch, gates)
    added = one.weight(3, "behind", behind, gates) if held < gates else None

    def product(state: ir.Value | None) -> ir.Value:
        if state is None:
            return one.weight(
                3, "first", lambda bias: np.tile(behind(bias), (one.batch, 1)), one.batch, gates
            )
        if stored(state):
            return _first(one, state, behind, gates)
        turned = one.weight(2, "turned", np.transpose, one.size, gates)
        made = one.op("MatMul", [state, turned], one.batch, gates)
        return made if added is None else one.op("Add", [made, added], one.batch, gates)

    return given, product


def _first(one: _Direction, state: ir.Value, behind: Callable[[Array], Array], gates: int) -> ir.Value:
    """Return the recipe of h·Rᵀ + b of a stored state."""
    matrix, bias = (known(one.node.inputs[operand]).const_value for operand in (2, 3))
    begun, index = state.const_value, one.index
    assert matrix is not None
    assert bias is not None
    assert begun is not None

    def read() -> Array:
        return np.asarray(array(begun) @ array(matrix)[index].T + behind(array(bias)[index]), np.float32)

    name = f"{one.node.outputs[0].name}.first{index}"
    return one.edit.weight(stored_value(lazy(name, ir.DataType.FLOAT, (one.batch, gates), read)))


def _lstm(one: _Direction, flat: ir.Value, order: Sequence[int]) -> tuple[list[ir.Value], ir.Value, ir.Value]:
    """Return the states of each step in the order of time, the last state and the last cell."""
    given, product = _products(one, flat, 4)
    state, cell, size = _start(one, 5), _start(one, 6), (one.batch, one.size)
    states: dict[int, ir.Value] = {}
    for step in order:
        total = one.rows(given, 0, step * one.batch, (step + 1) * one.batch)
        if state is not None:
            total = one.op("Add", [total, product(state)], one.batch, 4 * one.size)
        passed = one.op("Sigmoid", [one.rows(total, 1, 0, 3 * one.size)], one.batch, 3 * one.size)
        let_in, let_out, kept = one.gates(passed, 0, 1, 2)
        fresh = one.op("Mul", [let_in, one.op("Tanh", one.gates(total, 3), *size)], *size)
        cell = fresh if cell is None else one.op("Add", [one.op("Mul", [kept, cell], *size), fresh], *size)
        state = states[step] = one.op("Mul", [let_out, one.op("Tanh", [cell], *size)], *size)
    assert state is not None
    assert cell is not None
    return [states[step] for step in range(one.steps)], state, cell


def _gru(one: _Direction, flat: ir.Value, order: Sequence[int]) -> tuple[list[ir.Value], ir.Value, None]:
    """Return the states of each step in the order of time, and the last one."""
    given, product = _products(one, flat, 2)
    state, size = _start(one, 5), (one.batch, one.size)
    states: dict[int, ir.Value] = {}
    for step in order:
        now, past = one.rows(given, 0, step * one.batch, (step + 1) * one.batch), product(state)
        both = [one.rows(value, 1, 0, 2 * one.size) for value in (now, past)]
        passed = one.op("Sigmoid", [one.op("Add", both, one.batch, 2 * one.size)], one.batch, 2 * one.size)
        kept, reset = one.gates(passed, 0, 1)
        held = one.op("Mul", [reset, *one.gates(past, 2)], *size)
        fresh = one.op("Tanh", [one.op("Add", [*one.gates(now, 2), held], *size)], *size)
        change = (
            one.op("Mul", [fresh, _minus_one(one)], *size)
            if state is None
            else one.op("Sub", [state, fresh], *size)
        )
        state = states[step] = one.op("Add", [fresh, one.op("Mul", [kept, change], *size)], *size)
    assert state is not None
    return [states[step] for step in range(one.steps)], state, None


def _minus_one(one: _Direction) -> ir.Value:
    return one.edit.constant("minus_one", -1.0)


def _results(
    edit: Replacement,
    made: Sequence[tuple[list[ir.Value], ir.Value, ir.Value | None]],
    sizes: tuple[int, int, int],
) -> list[ir.Value]:
    """Return Y [steps, directions, batch, size], and the last states and cells [directions, batch, size]."""
    steps, batch, size = sizes

    def joined(values: Sequence[ir.Value], axis: int, shape: tuple[int, ...]) -> ir.Value:
        return values[0] if len(values) == 1 else edit.op("Concat", values, {"axis": axis}, shape=shape)

    def shaped(value: ir.Value, *shape: int) -> ir.Value:
        return edit.op("Reshape", [value, edit.constant("x".join(map(str, shape)), shape)], shape=shape)

    whole = [shaped(joined(states, 0, (steps * batch, size)), steps, 1, batch, size) for states, _, _ in made]
    results = [joined(whole, 1, (steps, len(made), batch, size))]
    for last in ([state for _, state, _ in made], [cell for _, _, cell in made]):
        held = [shaped(value, 1, batch, size) for value in last if value is not None]
        if held:
            results.append(joined(held, 0, (len(made), batch, size)))
    return results
