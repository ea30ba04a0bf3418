"""Multiply-accumulates and bytes of operator calls, against numbers counted by hand and by torch."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from m4c.operator_reports.cost import PRODUCTS, Cost, cost, multiplied, parameter_bytes
from m4c.targets.rules import Figures
from m4c.targets.view import Node
from tests.targets.graphs import node, tensor


def weight(*shape: int) -> object:
    return np.ones(shape)


def call(operator: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], **options: object) -> Node:
    form = "tflite" if operator.isupper() else "onnx"
    inputs = [tensor(shape, "float32") for shape in shapes]
    return node(operator, inputs, [tensor(out, "float32", name="y")], form, **options)  # type: ignore[arg-type]


CASES = [
    (call("CONV_2D", [(1, 8, 8, 4), (16, 3, 3, 4)], (1, 8, 8, 16)), 8 * 8 * 16 * 3 * 3 * 4),
    (call("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 3, 3, 4)], (1, 8, 8, 4)), 8 * 8 * 4 * 9),
    (call("TRANSPOSE_CONV", [(4,), (6, 2, 2, 4), (1, 8, 8, 4)], (1, 16, 16, 6)), 8 * 8 * 4 * 6 * 4),
    (call("CONV_3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 5)], (1, 4, 4, 4, 5)), 64 * 5 * 27 * 2),
    (call("FULLY_CONNECTED", [(7, 32), (10, 32)], (7, 10)), 7 * 10 * 32),
    (call("BATCH_MATMUL", [(2, 5, 6), (2, 6, 7)], (2, 5, 7)), 2 * 5 * 6 * 7),
    (call("BATCH_MATMUL", [(2, 6, 5), (2, 6, 7)], (2, 5, 7), adj_x=True), 2 * 5 * 6 * 7),
    (call("Gemm", [(6, 5), (6, 7)], (5, 7), transA=1), 5 * 6 * 7),
    (call("MatMul", [(3, 6), (6, 7)], (3, 7)), 3 * 6 * 7),
    (call("Conv", [(1, 8, 8, 8), (16, 2, 3, 3)], (1, 16, 8, 8)), 16 * 8 * 8 * 2 * 9),
    (call("ConvTranspose", [(1, 4, 8, 8), (4, 6, 2, 2)], (1, 6, 16, 16)), 8 * 8 * 4 * 6 * 4),
    (call("com.microsoft::MatMulNBits", [(3, 64), (16, 2, 16)], (3, 16), K=64, N=16), 3 * 16 * 64),
    (call("QLinearConv", [(1, 8, 8, 8), (), (), (16, 8, 3, 3)], (1, 16, 8, 8)), 16 * 64 * 8 * 9),
    (call("LSTM", [(9, 1, 6), (1, 16, 6), (1, 16, 4)], (9, 1, 1, 4)), 9 * (16 * 6 + 16 * 4)),
    (call("Attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)], (1, 2, 5, 8)), 2 * 2 * 5 * 7 * 8),
    (call("GELU", [(1, 8)], (1, 8)), 0),
]


@pytest.mark.parametrize(("made", "macs"), CASES, ids=lambda value: getattr(value, "operator", ""))
def test_products(made: Node, macs: int) -> None:
    assert multiplied(made) == macs


def test_convolutions_count_as_in_torch() -> None:
    for operator, module, shape in (
        ("Conv", torch.nn.Conv2d(8, 16, 3, padding=1, groups=4), (1, 8, 10, 10)),
        ("ConvTranspose", torch.nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), (1, 8, 10, 10)),
        ("MatMul", torch.nn.Linear(8, 5), (3, 8)),
    ):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            out = module(torch.zeros(shape))
        given = tuple(module.weight.shape)
        made = call(operator, [shape, given[::-1] if operator == "MatMul" else given], tuple(out.shape))
        assert 2 * (multiplied(made) or 0) == counted.get_total_flops()


def test_bytes_and_unknown_sizes() -> None:
    shared = tensor(dtype="int8", values=np.ones((16, 4)), name="w")
    first = node("FULLY_CONNECTED", [tensor((1, 4)), shared], [tensor((1, 16), name="y")])
    second = node("FULLY_CONNECTED", [tensor((1, 4)), shared], [tensor((1, 16), "int4", name="y")])
    assert cost([first]) == Cost(64, 4 + 64 + 16, 0)
    assert cost([first, second]) == Cost(128, 84 + 4 + 64 + 8, 0)
    assert parameter_bytes([first, second]) == 64
    growing = node("FULLY_CONNECTED", [tensor(("n", 4)), shared], [tensor(("n", 16), name="y")])
    assert cost([growing, first]) == Cost(64, 64 + 84, 1)
    assert set(PRODUCTS) >= {"CONV_2D", "Conv", "FULLY_CONNECTED", "MatMul"}


def test_the_longer_of_two_times() -> None:
    found = Cost(macs=10**6, bytes=10**6)
    assert found.seconds(Figures(2 * 10**9, None, None, None, "", "")) == pytest.approx(1e-3)
    assert found.seconds(Figures(2 * 10**9, 10**8, None, None, "", "")) == pytest.approx(1e-2)
    assert found.seconds(Figures(None, None, 8, None, "", ""), 10**6) is None
    assert found.seconds(Figures(2 * 10**9, None, 8, 10**7, "", ""), 10**6) == pytest.approx(1e-1)
