"""Layouts: what is said of memory is what numpy has in memory."""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from m4c.layouts import channels_last, extended, laid_out, named, plain, reshaped, restored, runs, without

Shape = list[int]

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def laid(draw: st.DrawFn) -> tuple[Shape, tuple[int, ...]]:
    """Draw a shape and a layout of it."""
    shape = draw(SIZES)
    return shape, tuple(draw(st.permutations(range(len(shape)))))


@st.composite
def divided(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Draw two shapes of as many numbers."""
    factors = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))

    def grouped() -> Shape:
        cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=3)))
        parts = zip([0, *cuts], [*cuts, len(factors)], strict=True)
        return [int(np.prod(factors[a:b], dtype=int)) for a, b in parts]

    return grouped(), grouped()


def memory(shape: Shape, layout: tuple[int, ...]) -> list[int]:
    """Return the numbers of the model's order in the order of memory."""
    return np.arange(np.prod(shape)).reshape(shape).transpose(layout).ravel().tolist()


@given(laid(), st.data())
def test_runs_are_equal_where_the_bytes_are(one: tuple[Shape, tuple[int, ...]], data: st.DataObject) -> None:
    shape, layout = one
    other = tuple(data.draw(st.permutations(range(len(shape)))))
    same = memory(shape, layout) == memory(shape, other)
    assert (runs(shape, layout) == runs(shape, other)) == same


@settings(max_examples=300)
@given(divided(), st.data(), st.booleans())
def test_a_reshaped_value_has_the_same_bytes(
    shapes: tuple[Shape, Shape], data: st.DataObject, last: bool
) -> None:
    shape, target = shapes
    layout = tuple(data.draw(st.permutations(range(len(shape)))))
    found = reshaped(shape, layout, target, last=last)
    every = [p for p in permutations(range(len(target))) if memory(target, p) == memory(shape, layout)]
    assert (found in every) if every else found is None


def test_pixels_become_tokens_and_groups_without_a_move() -> None:
    image, last = (1, 32, 8, 8), channels_last(4)
    assert reshaped(image, last, (1, 32, 64), last=True) == (0, 2, 1)
    assert reshaped((1, 32, 64), (0, 2, 1), image, last=True) == last
    assert reshaped((1, 32), plain(2), (1, 32, 1, 1), last=True) == last
    assert reshaped((1, 32), plain(2), (1, 32, 1, 1), last=False) == plain(4)
    assert reshaped((1, 64, 32), plain(3), (1, 32, 64), last=True) == plain(3)
    assert reshaped(image, last, (1, 4, 8, 64), last=True) == (0, 3, 1, 2)
    assert reshaped(image, last, (1, 32 * 64), last=True) is None


def test_a_value_may_get_or_lose_axes() -> None:
    assert extended((1, 0), 4) == (0, 1, 3, 2)
    assert laid_out((3, 5), (0, 1, 3, 2)) == (1, 1, 5, 3)
    assert without((0, 2, 3, 1), [2]) == (0, 2, 1)
    assert without((0, 2, 3, 1), [2, 3]) == (0, 1)


@given(laid())
def test_a_tensor_is_found_again_by_its_name(one: tuple[Shape, tuple[int, ...]]) -> None:
    shape, layout = one
    values = np.arange(np.prod(shape)).reshape(shape)
    name, found = restored(named("a@1.x", len(shape), layout), values.transpose(layout))
    assert name == "a@1.x"
    np.testing.assert_array_equal(found, values)


def test_padded_tensors_and_odd_names_stand_for_no_value() -> None:
    padded = named("x", 1, (0, 1, 2, 3))
    values = np.zeros((1, 1, 1, 2))
    assert restored(padded, values)[0] == padded != "x"
    assert restored("mail@example", values)[0] == "mail@example"
    assert restored("x@01", values)[0] == "x@01"
