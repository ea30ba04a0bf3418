"""Padding as numbers: what ``auto_pad`` and ``output_shape`` ask for is what ONNX Runtime makes of it."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from m4c.passes.canonicalize import Canonicalize
from m4c.rewrite import attribute
from tests.integer_graphs import run
from tests.passes.rewriting import Rewritten, build, rewrite

CANONICALIZE = Canonicalize()
KINDS = st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
IMAGE = st.tuples(st.integers(5, 8), st.integers(5, 8))


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def canonical(kind: str, image: str, kernel: tuple[int, ...], form: str, **sizes: int) -> Rewritten:
    """Rewrite a convolution of one image with two channels by a kernel [3, 2, …], [2, 3, …] if transposed."""
    channels = (3, 2) if kind == "Conv" else (2, 3)
    made = ", ".join("abc"[: len(kernel)])
    text = f"g (float[1, 2, {image}] x) => (float[1, 3, {made}] y) {{ y = {kind}<{form}>(x, w) }}"
    return rewrite(CANONICALIZE, text, weights={"w": floats(*channels, *kernel)}, sizes=sizes)


def pads(made: Rewritten) -> list[int]:
    (node,) = made.model.graph
    assert attribute(node, "auto_pad", "NOTSET") == "NOTSET"
    assert "output_shape" not in node.attributes
    return list(attribute(node, "pads"))


@settings(deadline=None, max_examples=20)
@given(KINDS, IMAGE, PAIR, PAIR)
def test_padding_of_a_convolution(
    kind: str, image: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> None:
    form = f'auto_pad = "{kind}", strides = {list(strides)}'
    made = canonical("Conv", f"{image[0]}, {image[1]}", kernel, form)
    assert made.texts == ["Conv has its padding as pads"]
    assert len(pads(made)) == 4


def test_padding_of_a_dilated_convolution() -> None:
    """ONNX Runtime refuses SAME with a dilation, so torch is the reference."""
    kernel, x = floats(3, 2, 4, 3), floats(1, 2, 9, 8)
    form = 'auto_pad = "SAME_UPPER", dilations = [2, 3]'
    text = f"g (float[1, 2, 9, 8] x) => (float[1, 3, 9, 8] y) {{ y = Conv<{form}>(x, w) }}"
    result = CANONICALIZE(build(text, {"w": kernel}, {}))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(kernel), padding="same", dilation=(2, 3)
    )
    np.testing.assert_allclose(run(result.model, {"x": x})[0], expected.numpy(), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(KINDS, IMAGE, PAIR, PAIR)
def test_padding_of_a_transposed_convolution(
    kind: str, image: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> None:
    assume(all(size >= stride for size, stride in zip(kernel, strides, strict=True)))
    form = f'auto_pad = "{kind}", strides = {list(strides)}'
    made = canonical("ConvTranspose", f"{image[0]}, {image[1]}", kernel, form)
    assert made.texts == ["ConvTranspose has its padding as pads"]
    assert len(pads(made)) == 4


@pytest.mark.parametrize(("kind", "expected"), [("SAME_UPPER", [1, 0, 2, 1]), ("NOTSET", [2, 1, 1, 0])])
def test_padding_of_a_given_output(kind: str, expected: list[int]) -> None:
    form = f'auto_pad = "{kind}", strides = [2, 2], output_shape = [8, 10]'
    assert pads(canonical("ConvTranspose", "5, 5", (3, 3), form)) == expected


def test_an_odd_one_is_at_the_end_or_at_the_beginning() -> None:
    assert pads(canonical("Conv", "7", (4,), 'auto_pad = "SAME_UPPER"')) == [1, 2]
    assert pads(canonical("Conv", "7", (4,), 'auto_pad = "SAME_LOWER"')) == [2, 1]
    assert pads(canonical("Conv", "7", (4,), 'auto_pad = "VALID"')) == [0, 0]


def test_an_unknown_size_only_matters_with_a_stride() -> None:
    assert pads(canonical("Conv", "n", (3,), 'auto_pad = "SAME_UPPER"', n=7)) == [1, 1]
    assert pads(canonical("ConvTranspose", "n", (3,), 'auto_pad = "SAME_UPPER", strides = [2]', n=7)) == [
        0,
        1,
    ]
    stays = canonical("Conv", "n", (3,), 'auto_pad = "SAME_UPPER", strides = [2]', n=7)
    assert not stays.texts


def test_padding_in_numbers_stays() -> None:
    assert not canonical("Conv", "7", (3,), "pads = [1, 0]").texts


def test_a_result_larger_than_padding_can_make_it_stays() -> None:
    made = canonical("ConvTranspose", "5", (1,), 'auto_pad = "SAME_UPPER", strides = [2]')
    assert not made.texts
