"""Every condition that profiles may name: a call for which it holds, one for which it does not, and what is then said."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m4c.targets.conditions import KNOWN, page, parse
from m4c.targets.view import Node, Quantization, Tensor
from tests.targets.graphs import node, tensor

MAP = tensor((1, 8, 8, 4))
WEIGHT = tensor(dtype="int8", values=np.ones((4, 3, 3, 4)))
BIAS = tensor(dtype="int32", values=np.ones(4))


def axes(*values: int) -> Tensor:
    return tensor(dtype="int32", values=list(values))


def conv(**options: Any) -> Node:
    return node("CONV_2D", [MAP, WEIGHT, BIAS], [tensor((1, 8, 8, 4), name="y")], **options)


def linear(weight: Tensor, bias: Tensor | None = None) -> Node:
    return node("FULLY_CONNECTED", [tensor((1, 4)), weight, bias], [tensor((1, 4), name="y")])


def pool(height: int, width: int, padding: int) -> Node:
    return node("MAX_POOL_2D", [MAP], filter_height=height, filter_width=width, padding=padding)


def mean(shape: tuple[int, ...], *over: int, dtype: str = "int8") -> Node:
    return node("MEAN", [tensor(shape, dtype), axes(*over)], [tensor((1, 4), name="y")])


def transposed(stride: tuple[int, int], out: tuple[int, ...], padding: int = 0, height: int = 3) -> Node:
    weight = tensor(dtype="int8", values=np.ones((4, height, 3, 4)))
    data = tensor((1, height if height == 1 else 8, 8, 4))
    inputs = [axes(*out), weight, data]
    return node(
        "TRANSPOSE_CONV",
        inputs,
        [tensor(out, name="y")],
        stride_h=stride[0],
        stride_w=stride[1],
        padding=padding,
    )


def resize(before: int, after: tuple[int, int], operator: str = "RESIZE_BILINEAR", **options: Any) -> Node:
    first = tensor((1, before, before, 4))
    return node(operator, [first], [tensor((1, *after, 4), name="y")], **options)


def permuted(shape: tuple[int, ...], *order: int, dtype: str = "int8") -> Node:
    return node("TRANSPOSE", [tensor(shape, dtype), axes(*order)])


def sliced(*steps: int, **masks: Any) -> Node:
    return node("STRIDED_SLICE", [tensor((4, 4)), axes(0, 0), axes(4, 4), axes(*steps)], **masks)


def lstm(**present: int) -> Node:
    """Return a plain LSTM, of whose 24 inputs some are there or not."""
    here = {0, 1, 2, 3, 4, 5, 6, 7, 8, *present.values()}
    if "without" in present:
        here -= {present["without"]}
    inputs = [tensor() if i in here else None for i in range(24)]
    return node("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs)


def scatter(indices: list[list[int]], shape: Tensor | None = None) -> Node:
    given = tensor(dtype="int32", values=indices)
    return node("SCATTER_ND", [given, tensor((2, 4)), axes(4, 4) if shape is None else shape])


def scaled(*scales: float, dtype: str = "int8", points: tuple[int, ...] = (0,)) -> Tensor:
    return tensor((1, 4), dtype, quantization=Quantization(scales, points))


def onnx(operator: str, *inputs: Tensor | None, version: int = 20, **options: Any) -> Node:
    return node(operator, list(inputs), form="onnx", version=version, **options)


X = tensor((1, 4), "float32")
IMAGE = tensor((1, 3, 8, 8), "float32")
W = tensor(dtype="float32", values=np.ones((4, 4)))

CASES: dict[str, tuple[Node, Node, str]] = {
    "static_shape": (conv(), node("ADD", [tensor((1, "n"))]), "n of x .* can change"),
    "only_batch_changes": (node("ADD", [tensor(("n", 4))]), node("ADD", [tensor((1, "n"))]), "n of x"),
    "rank_at_most(4)": (conv(), node("ADD", [tensor((1, 1, 1, 1, 4))]), "rank 5, at most 4"),
    "operands_of_one_rank": (
        node("ADD", [tensor((3, 1, 8)), tensor((5, 1))], [tensor((3, 5, 8), name="y")]),
        node("ADD", [tensor((2, 2, 3, 1, 8)), tensor((5, 1))], [tensor((2, 2, 3, 5, 8), name="y")]),
        "its operands have 4 and 5 dimensions",
    ),
    "indices_in_a_list": (
        node("GATHER", [X, axes(1, 2)]),
        node("GATHER", [X, tensor((1, 2), "int32")]),
        "2 dimensions, one is possible",
    ),
    "computed_input": (node("TRANSPOSE", [X]), node("TRANSPOSE", [W]), "is stored"),
    "three_inner_dimensions": (conv(), node("ADD", [tensor((2, 8, 8, 4))]), "larger than 1 outside"),
    "dtypes(int8, uint8)": (conv(), node("ADD", [X]), r"x \(float32 1×4\) is float32, not int8 or uint8"),
    "constant_dtypes(int8, int32)": (conv(), linear(W), "is float32, not int8"),
    "input_dtypes(int8)": (conv(), node("RSQRT", [X]), "float32, not int8"),
    "not_dtypes(int32)": (conv(), node("ABS", [tensor(dtype="int32")]), "int32, which is not taken"),
    "same_dtype(int8)": (node("ELU", [tensor()]), node("ELU", [X]), "two types"),
    "same_shape": (node("ELU", [tensor()]), node("ELU", [tensor()], [tensor((2, 2))]), "two shapes"),
    "quantized": (node("ADD", [scaled(0.5)]), node("ADD", [tensor(quantization=None)]), "no scale"),
    "per_tensor": (node("ADD", [scaled(0.5)]), node("ADD", [scaled(0.5, 1.0, points=(0, 0))]), "2 scales"),
    "zero_points_of_u55": (
        conv(),
        node("ADD", [scaled(1, dtype="int32", points=(3,))]),
        "zero point 3, int32",
    ),
    "zero_points_of_u85": (
        node("ADD", [scaled(1, points=(-128,))]),
        node("ADD", [scaled(1, dtype="uint16", points=(5,))]),
        "zero point 5",
    ),
    "same_quantization": (
        node("MAXIMUM", [scaled(0.5), scaled(0.5)], [scaled(0.5)]),
        node("MAXIMUM", [scaled(0.5), scaled(1)], [scaled(0.5)]),
        "another scale",
    ),
    "version_at_most(5)": (conv(), node("CONV_2D", [MAP], version=6), "version 6, at most 5"),
    "batch_one": (conv(), node("MEAN", [tensor((2, 8, 8, 4))]), "batch of x .* is 2"),
    "elements_at_most(256)": (conv(), node("SOFTMAX", [tensor((1, 257))]), "257 values, at most 256"),
    "inputs_at_most(2)": (node("PACK", [X, X]), node("PACK", [X, X, X]), "3 inputs, at most 2"),
    "one_dimensional": (linear(W), node("SOFTMAX", [tensor((2, 4))]), "2 sizes of y"),
    "constant_inputs(1, 2)": (conv(), node("CONV_2D", [MAP, tensor()]), "input 1, .* is computed"),
    "constant_or_dtype(1, int32)": (
        onnx("Gather", X, tensor(dtype="int32")),
        onnx("Gather", X, tensor(dtype="int64")),
        "computed and not int32",
    ),
    "no_scalar_input(1)": (onnx("Gather", X, X), onnx("Gather", X, tensor((), "int64")), "is a scalar"),
    "equal_dilation": (conv(), conv(dilation_h_factor=2), "2 in height and 1 in width"),
    "no_dilation": (conv(), conv(dilation_h_factor=2, dilation_w_factor=2), "2 by 2"),
    "stride_at_most(3)": (conv(stride_h=3), conv(stride_w=4), "1 by 4, at most 3"),
    "stride_at_most_unless_valid(3)": (conv(stride_w=4, padding=1), conv(stride_w=4, padding=0), "1 by 4"),
    "average_window": (pool(256, 256, 1), pool(9, 1, 0), "9 by 1, with SAME"),
    "maximum_window": (pool(256, 256, 0), pool(257, 1, 0), "257 by 1"),
    "weights_of_8_bits": (conv(), linear(W), "is float32"),
    "weight_sum(4607)": (
        node("CONV_2D", [MAP, WEIGHT]),
        node("CONV_2D", [MAP, tensor(dtype="int8", values=np.full((4, 3, 3, 4), -128))]),
        "4,608, at most 4,607",
    ),
    "constant_bias": (conv(), linear(W, tensor()), "is computed"),
    "bias_dtypes(int32)": (conv(), linear(W, tensor(dtype="int8", values=[1, 2, 3, 4])), "int8, not int32"),
    "bias_along_channels": (conv(), linear(W, tensor(dtype="int32", values=[1, 2])), "serves 4 channels"),
    "bias_bits(40)": (conv(), linear(W, tensor(dtype="int64", values=[2**41])), "2,199,023,255,552"),
    "transposed_output": (transposed((2, 2), (1, 16, 16, 4)), transposed((2, 2), (1, 17, 16, 4)), "has 17"),
    "transposed_stride": (
        transposed((1, 2), (1, 1, 16, 4), height=1),
        transposed((1, 2), (1, 8, 16, 4)),
        "1 by 2",
    ),
    "no_fused_activation": (pool(2, 2, 1), node("MAX_POOL_2D", [MAP], fused_activation_function=3), "RELU6"),
    "default_weights_format": (linear(W), node("FULLY_CONNECTED", [X], weights_format=1), "format 1"),
    "weights_are_a_matrix": (linear(W), linear(WEIGHT), "no matrix"),
    "two_activations_are(int8)": (linear(W), node("BATCH_MATMUL", [X, X]), "multiplied by an activation"),
    "two_activations_at_most(9)": (
        linear(W),
        node("BATCH_MATMUL", [tensor((4, 10)), tensor((10, 3))], [tensor((4, 3))]),
        "10 are summed to 3, at most 9",
    ),
    "not_over_batch": (mean((1, 8, 8, 4), 1, 2), mean((1, 8, 8, 4), 0), "along the batch"),
    "channels_multiple_of(4)": (mean((1, 8, 8, 4), 3), mean((1, 8, 8, 6), -1), "the 6 channels"),
    "only_over_height_and_width": (mean((1, 8, 8, 4), 1, 2), mean((1, 8, 8, 4), 3), "along axis 3"),
    "constant_input_is_zero_padding": (
        node("CONCATENATION", [MAP, tensor(dtype="int8", values=np.zeros((1, 8, 8, 4)))]),
        node("CONCATENATION", [MAP, tensor(dtype="int8", values=np.ones((1, 8, 8, 4)))]),
        "not all zeros",
    ),
    "slope_along_channels": (
        node("PRELU", [MAP, tensor(dtype="int8", values=np.ones((1, 1, 4)))]),
        node("PRELU", [MAP, tensor(dtype="int8", values=np.ones((8, 8, 4)))]),
        "changes within a channel",
    ),
    "squeezes_in_front": (
        node("SQUEEZE", [tensor((1, 5, 10))]),
        node("SQUEEZE", [tensor((5, 1, 10))]),
        "does not begin with",
    ),
    "plain_strided_slice": (sliced(1, 1), sliced(1, 2), "steps are 1, 2"),
    "forward_slice": (sliced(1, 2), sliced(1, -1), "1, -1"),
    "splits_are_outputs": (
        node("SPLIT", [MAP], num_splits=1),
        node("SPLIT", [MAP], num_splits=2),
        "2 splits",
    ),
    "mean_elements": (
        mean((1, 256, 256, 4), 1, 2, dtype="int16"),
        mean((1, 256, 257, 4), 1, 2, dtype="int16"),
        "65,792",
    ),
    "reduced_axis_below(8)": (mean((1, 7, 8, 4), 1), mean((1, 8, 8, 4), 1), "axis of 8 is reduced"),
    "mean_over_depth": (mean((1, 8, 1, 4), 3), mean((1, 8, 8, 4), 3), "averaged over depth"),
    "rows_below(65)": (node("SOFTMAX", [MAP]), node("SOFTMAX", [tensor((1, 8, 9, 4))]), "72 rows"),
    "along_depth": (node("ARG_MAX", [MAP, axes(3)]), node("ARG_MAX", [MAP, axes(1)]), "along axis 1"),
    "depth_at_most(4)": (node("ARG_MAX", [MAP]), node("ARG_MAX", [tensor((1, 5))]), "over 4"),
    "transpose_of_u55": (
        permuted((1, 300, 300, 300), 0, 2, 1, 3),
        permuted((2, 300, 300, 300), 3, 1, 0, 2),
        "N-2 axes",
    ),
    "resize_of_u55": (
        resize(8, (16, 16), half_pixel_centers=True),
        resize(8, (32, 32), half_pixel_centers=True),
        "by 4 and 4, not by 2",
    ),
    "resize_at_most(3)": (resize(8, (24, 24)), resize(8, (32, 32)), "by 4, at most 3"),
    "resize_by_power_of_two": (resize(8, (32, 32)), resize(8, (24, 24)), "by 3 and 3"),
    "corners_or_centers": (
        resize(8, (16, 16), align_corners=True),
        resize(8, (16, 16), align_corners=True, half_pixel_centers=True),
        "align_corners and half",
    ),
    "no_axis": (node("REVERSE_V2", [MAP]), node("REVERSE_V2", [MAP, axes(1)]), "has an axis"),
    "axis_is_batch_dimensions": (node("GATHER", [MAP]), node("GATHER", [MAP], axis=1), "axis is 1, .* 0"),
    "scatter_of_u85": (scatter([[0], [1]]), scatter([[1], [1]]), "names a place twice"),
    "lstm_without(peephole, coupled)": (lstm(), lstm(without=1), "has coupled"),
    "integer_variable": (
        node("READ_VARIABLE", [tensor(dtype="resource")]),
        node("READ_VARIABLE", [tensor(dtype="resource")], [X]),
        "is float32",
    ),
    "composite_named(odml.rms_norm)": (
        node("STABLEHLO_COMPOSITE", [X], name="odml.rms_norm"),
        node("STABLEHLO_COMPOSITE", [X]),
        "without a name",
    ),
    "window_dimensions(2)": (onnx("Conv", IMAGE), onnx("Conv", tensor((1, 3, 8))), "1 dimensions"),
    "attribute(mode, DCR)": (onnx("DepthToSpace", IMAGE), onnx("DepthToSpace", IMAGE, mode="CRD"), "CRD"),
    "without_attribute(output_shape)": (onnx("Conv", X), onnx("Conv", X, output_shape=(1,)), "output_shape"),
    "constant_or_transposed": (onnx("Gemm", X, X, transB=1), onnx("Gemm", X, X), "transB is 0"),
    "even_split": (
        node("Split", [X], [tensor((2, 4)), tensor((2, 4))], "onnx"),
        node("Split", [X], [tensor((2, 4)), tensor((3, 4))], "onnx"),
        "sizes 2, 3",
    ),
    "pads_not_negative": (
        onnx("Pad", X, tensor(dtype="int64", values=[0, 1])),
        onnx("Pad", X, tensor(dtype="int64", values=[0, -1])),
        "by -1",
    ),
    "last_axis": (onnx("Softmax", IMAGE), onnx("Softmax", IMAGE, axis=1), "axis 1"),
    "kernels(7-13 T=float32; 14- T=float32|int8)": (
        onnx("Add", tensor(), tensor(), version=14),
        onnx("Add", tensor(), tensor(), version=13),
        "int8, there are kernels for float32",
    ),
}


def test_every_condition_is_tested() -> None:
    assert {text.partition("(")[0] for text in CASES} == set(KNOWN)


@pytest.mark.parametrize("text", CASES)
def test_it_holds_or_says_why_not(text: str) -> None:
    good, bad, message = CASES[text]
    constraint = parse(text, "a test")
    assert str(constraint) == text
    assert constraint(good) is None
    said = constraint(bad)
    assert said is not None
    assert re.search(message, said), said
    assert constraint.condition.fix


def test_weights_are_summed_by_channel() -> None:
    depthwise = tensor(dtype="int8", values=np.full((1, 3, 3, 4), 100))
    call = node("DEPTHWISE_CONV_2D", [MAP, depthwise])
    assert parse("weight_sum(900)", "")(call) is None
    assert parse("weight_sum(899)", "")(call) == "the weights of a channel sum up to 900, at most 899"


@pytest.mark.parametrize(
    ("form", "call"),
    [
        ("gate_norm", lstm(extra=20)),
        ("projection", lstm(extra=16)),
        ("peephole", lstm(extra=9)),
        ("coupled", lstm(without=1)),
    ],
)
def test_forms_of_an_lstm(form: str, call: Node) -> None:
    constraint = parse(f"lstm_without({form})", "")
    assert constraint(lstm()) is None
    assert constraint(call) == f"it has {form.replace('_', ' ')}"


def test_the_documentation_lists_them_all() -> None:
    stored = Path("docs/constraints.md").read_text("utf-8")
    wanted = (
        "python -c 'from m4c.targets.conditions import page; print(page(), end=\"\")' > docs/constraints.md"
    )
    assert stored == page(), f"write it again: {wanted}"
