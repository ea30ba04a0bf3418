"""unroll-recurrent: the same numbers as ONNX Runtime's own LSTM and GRU."""

from collections.abc import Mapping

import numpy as np
import pytest

from m4c.passes.unroll_recurrent import UnrollRecurrent
from tests.passes.rewriting import Array, rewrite

STEP = UnrollRecurrent(most=8)
STEPS, BATCH, WIDTH, SIZE = 5, 2, 3, 4


def weights(gates: int, directions: int) -> dict[str, Array]:
    rng = np.random.default_rng(gates)

    def drawn(*shape: int) -> Array:
        return rng.standard_normal((directions, *shape)).astype(np.float32)

    rows = gates * SIZE
    return {
        "w": drawn(rows, WIDTH),
        "r": drawn(rows, SIZE),
        "b": drawn(2 * rows),
        "h": drawn(BATCH, SIZE),
        "c": drawn(BATCH, SIZE),
    }


def text(kind: str, direction: str, operands: str, inputs: str = "", **more: int) -> str:
    directions = 1 + (direction == "bidirectional")
    options = {"linear_before_reset": 1, **more} if kind == "GRU" else more
    listed = ", ".join(
        [f'direction = "{direction}"', f"hidden_size = {SIZE}", *(f"{k} = {v}" for k, v in options.items())]
    )
    state = f"float[{directions}, {BATCH}, {SIZE}]"
    made = f"float[{STEPS}, {directions}, {BATCH}, {SIZE}] y, {state} last" + (
        f", {state} cell" * (kind == "LSTM")
    )
    names = "y, last, cell" if kind == "LSTM" else "y, last"
    return f"g (float[{STEPS}, {BATCH}, {WIDTH}] x{inputs}) => ({made}) {{ {names} = {kind}<{listed}>({operands}) }}"


def used(operands: str, held: Mapping[str, Array]) -> dict[str, Array]:
    return {name: values for name, values in held.items() if name in operands.replace(" ", "").split(",")}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("kind", "operands"),
    [
        ("LSTM", "x, w, r, b"),
        ("LSTM", "x, w, r, b, , h, c"),
        ("GRU", "x, w, r, b"),
        ("GRU", "x, w, r, b, , h"),
    ],
)
def test_steps_compute_the_same(kind: str, operands: str, direction: str) -> None:
    held = weights({"LSTM": 4, "GRU": 3}[kind], 1 + (direction == "bidirectional"))
    made = rewrite(STEP, text(kind, direction, operands), weights=used(operands, held))
    assert kind not in made.operators
    assert made.texts == [f"{kind} written out in 5 steps"]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_may_be_computed_or_zeros(kind: str) -> None:
    held = weights({"LSTM": 4, "GRU": 3}[kind], 1)
    state = f"float[1, {BATCH}, {SIZE}]"
    operands = "x, w, r, b, , h, c" if kind == "LSTM" else "x, w, r, b, , h"
    inputs = f", {state} h" + f", {state} c" * (kind == "LSTM")
    given = {name: values for name, values in used(operands, held).items() if name not in "hc"}
    assert kind not in rewrite(STEP, text(kind, "forward", operands, inputs), weights=given).operators
    zeros = {name: np.zeros((1, BATCH, SIZE), np.float32) for name in "hc" if name in used(operands, held)}
    made = rewrite(STEP, text(kind, "forward", operands), weights=given, constants=zeros)
    assert made.operators.count("MatMul") == STEPS  # one before all steps, one in all but the first


def test_others_stay() -> None:
    held = weights(3, 1)
    operands = "x, w, r, b"
    given = used(operands, held)
    other = rewrite(STEP, text("GRU", "forward", operands, linear_before_reset=0), weights=given)
    assert [miss.text.partition(": ")[2] for miss in other.misses] == [
        "it resets before the product (linear_before_reset=0)"
    ]
    few = rewrite(UnrollRecurrent(most=4), text("GRU", "forward", operands), weights=given)
    assert [miss.text.partition(": ")[2] for miss in few.misses] == ["it has 5 steps, more than 4"]
    lengths = text("GRU", "forward", f"{operands}, n", f", int32[{BATCH}] n")
    feeds = {"x": np.ones((STEPS, BATCH, WIDTH), np.float32), "n": np.array([5, 3], np.int32)}
    assert rewrite(STEP, lengths, weights=given, feeds=feeds).operators == ["GRU"]
