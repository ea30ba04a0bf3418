"""Grids and their stored forms, against numpy that computes what the formats say, number by number."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch

from m4c.blockwise import Blocks, BlockwiseWeight, nibbles
from m4c.errors import Bug, UsageError
from m4c.grid import Grid
from m4c.weights import Array, Recipe, array, part, stretches

GRIDS = [Grid(bits, group, symmetric) for bits in (4, 8) for group in (16, 32) for symmetric in (True, False)]
CHANNELS = [Grid(bits, None, symmetric) for bits in (4, 8) for symmetric in (True, False)]
OUTPUTS, INPUTS = 7, 96
"""An odd number of rows, and of groups of 32."""


class Stored:
    """Codes, scales and zero points in memory; counts the rows that are asked for."""

    def __init__(self, grid: Grid, outputs: int = OUTPUTS, inputs: int = INPUTS) -> None:
        rng = np.random.default_rng(3)
        groups = inputs // grid.size(inputs)
        self.grid = grid
        self.codes = rng.integers(0, grid.top + 1, (outputs, inputs), np.uint8)
        self.scales = rng.standard_normal((outputs, groups)).astype(np.float32)
        self.zeros = (
            np.full((outputs, groups), grid.middle, np.uint8)
            if grid.symmetric
            else rng.integers(0, grid.top + 1, (outputs, groups), np.uint8)
        )
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: slice) -> Blocks:
        self.asked.append((rows.start, rows.stop))
        made = self.codes[rows], self.scales[rows], self.zeros[rows]
        return Blocks(*(torch.from_numpy(values.copy()) for values in made))

    @property
    def values(self) -> Array:
        """``(code − zero) · scale``, one number after the other."""
        values = np.empty(self.codes.shape, np.float32)
        size = self.grid.size(self.codes.shape[1])
        for (row, column), code in np.ndenumerate(self.codes):
            group = column // size
            centred = np.float32(int(code) - int(self.zeros[row, group]))
            values[row, column] = centred * self.scales[row, group]
        return values

    def weight(self, order: Array | None = None, step: int | None = 3) -> BlockwiseWeight:
        return BlockwiseWeight("w", self.codes.shape, self.grid, self, order, step)


def unpacked(data: Array, bits: int, count: int) -> list[int]:
    """Return the codes in ``data``: bytes, or low halves before high ones."""
    if bits == 8:
        return [int(byte) for byte in data.reshape(-1)]
    return [code for byte in data.reshape(-1) for code in (int(byte) % 16, int(byte) // 16)][:count]


@pytest.mark.parametrize(("bits", "top", "middle"), [(4, 15, 8), (8, 255, 128)])
def test_codes_of_a_grid(bits: int, top: int, middle: int) -> None:
    grid = Grid(bits, 32)
    assert (grid.top, grid.middle, grid.size(96)) == (top, middle, 32)
    assert Grid(bits, None).size(96) == 96


def test_what_a_weight_takes() -> None:
    assert Grid(4, 32).bits_per_weight(4096) == 5
    assert Grid(4, 32, symmetric=False).bits_per_weight(4096) == 4 + 36 / 32
    assert Grid(8, None).bits_per_weight(64) == 8.5


@pytest.mark.parametrize(
    ("grid", "name"),
    [
        (Grid(4, 32), "int4/32"),
        (Grid(4, 64, symmetric=False), "uint4/64"),
        (Grid(8, None), "int8/channel"),
    ],
)
def test_names(grid: Grid, name: str) -> None:
    assert str(grid) == name


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (16, 32), (4, 8), (4, 24), (8, 48), (4, 0), (4, -16)])
def test_grids_that_no_runtime_computes_with(bits: int, group: int) -> None:
    with pytest.raises(UsageError) as caught:
        Grid(bits, group)
    assert "choose" in caught.value.fix


def test_a_group_that_does_not_divide_the_inputs() -> None:
    with pytest.raises(UsageError, match="a group size of 64 does not divide the 96 inputs of w") as caught:
        Stored(Grid(4, 32)).weight().__class__("w", (7, 96), Grid(4, 64), Stored(Grid(4, 32)))
    assert caught.value.where == "w"
    assert "--group-size" in caught.value.fix


@pytest.mark.parametrize("grid", [*GRIDS, *CHANNELS], ids=str)
def test_dequantized(grid: Grid) -> None:
    held = Stored(grid)
    recipe = held.weight().dequantized()
    assert (recipe.name, recipe.dtype, recipe.divisible) == ("w", ir.DataType.FLOAT, True)
    assert not held.asked
    np.testing.assert_array_equal(array(recipe), held.values)
    for rows in (slice(0, 1), slice(2, 7), *stretches(recipe, 1)):
        np.testing.assert_array_equal(part(recipe, rows), held.values[rows])


def test_columns_come_back_in_their_own_order(rng: np.random.Generator) -> None:
    held, order = Stored(Grid(4, 16)), rng.permutation(INPUTS)
    expected = np.empty_like(held.values)
    for place, column in enumerate(order):
        expected[:, column] = held.values[:, place]
    np.testing.assert_array_equal(array(held.weight(order).dequantized()), expected)


def test_halves_have_their_own_dtype() -> None:
    recipe = Stored(Grid(4, 16)).weight().dequantized(ir.DataType.FLOAT16)
    assert array(recipe).dtype == np.float16


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_packed(grid: Grid) -> None:
    """Each row in turn: its codes without a gap; then scales; then zero points, whose rows begin at a byte."""
    held = Stored(grid)
    codes, scales, zeros = held.weight().packed()
    groups, bits = INPUTS // grid.size(INPUTS), grid.bits
    data = array(codes)
    assert data.shape == (OUTPUTS, groups, grid.size(INPUTS) * bits // 8)
    for row in range(OUTPUTS):
        assert unpacked(data[row], bits, INPUTS) == held.codes[row].tolist()
    np.testing.assert_array_equal(array(scales), held.scales)
    assert (zeros is None) == grid.symmetric
    if zeros is not None:
        data = array(zeros)
        assert data.shape == (OUTPUTS, (groups * bits + 7) // 8)
        for row in range(OUTPUTS):
            assert unpacked(data[row], bits, groups) == held.zeros[row].tolist()


@pytest.mark.parametrize("grid", [*GRIDS, *CHANNELS], ids=str)
def test_turned(grid: Grid) -> None:
    """Inputs first; ``(q − z) · s`` is what DequantizeLinear computes of it."""
    held = Stored(grid)
    codes, scales, zeros = (None if t is None else array(t) for t in held.weight().turned())
    assert codes is not None
    assert scales is not None
    kinds = {(4, True): ml_dtypes.int4, (4, False): ml_dtypes.uint4, (8, True): np.int8, (8, False): np.uint8}
    kind = kinds[grid.bits, grid.symmetric]
    assert (codes.dtype, codes.shape) == (kind, (INPUTS, OUTPUTS))
    assert scales.shape == ((OUTPUTS,) if grid.group is None else (INPUTS // grid.group, OUTPUTS))
    assert (zeros is None) == grid.symmetric
    centred = codes.astype(np.float32)
    size = grid.size(INPUTS)
    if zeros is not None:
        assert (zeros.dtype, zeros.shape) == (kind, scales.shape)
        centred -= np.repeat(zeros.astype(np.float32).reshape(-1, OUTPUTS), size, axis=0)
    found = centred * np.repeat(scales.reshape(-1, OUTPUTS), size, axis=0)
    np.testing.assert_array_equal(found.T, held.values)


def test_table() -> None:
    for group in (16, None):
        held = Stored(Grid(8, group))
        codes, scales = (array(t) for t in held.weight().table())
        assert codes.dtype == np.int8
        found = codes.astype(np.float32) * np.repeat(scales, Grid(8, group).size(INPUTS), axis=1)
        np.testing.assert_array_equal(found, held.values)


@pytest.mark.parametrize("form", ["packed", "turned", "table"])
def test_a_matrix_is_quantized_once(form: str) -> None:
    """Codes are read first, as files are written; then scales and zero points are there."""
    held = Stored(Grid(8, 32, symmetric=form == "table"))
    for tensor in getattr(held.weight(), form)():
        array(tensor)
    assert sorted(held.asked) == [(0, 3), (3, 6), (6, 7)]


Read = Callable[[tuple[Recipe, Recipe, Recipe | None]], object]


@pytest.mark.parametrize(
    "before",
    [
        lambda made: array(made[1]),
        lambda made: (array(made[0]), array(made[0])),
        lambda made: part(made[0], slice(0, 1)),
        lambda made: part(made[0], slice(0, 7)),
        lambda made: [part(made[0], rows) for rows in stretches(made[0], 1)],
    ],
    ids=["scales", "codes twice", "a row", "all rows at once", "in stretches"],
)
def test_whatever_was_read_before_scales_and_zeros_are_right(before: Read) -> None:
    held = Stored(Grid(8, 32, symmetric=False))
    made = held.weight().packed()
    before(made)
    assert made[2] is not None
    for _ in range(2):
        np.testing.assert_array_equal(array(made[1]), held.scales)
        np.testing.assert_array_equal(array(made[2]), held.zeros)
        np.testing.assert_array_equal(array(made[0]).reshape(OUTPUTS, INPUTS), held.codes)


def test_nothing_is_left_waiting_after_all_was_read() -> None:
    """What waits is memory: with the last of a matrix read there must be none."""
    made = Stored(Grid(8, 32, symmetric=False)).weight().packed()
    for tensor in made:
        assert tensor is not None
        array(tensor)
    joint = made[0]._part.__closure__[1].cell_contents  # type: ignore[union-attr,index]
    assert joint._waiting == {}


def test_threads_may_read_one_matrix() -> None:
    held = Stored(Grid(4, 16, symmetric=False), outputs=256)
    made = held.weight(step=8).packed()
    expected = [array(tensor).copy() for tensor in made if tensor is not None]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: array(made[i % 3]), range(24)))  # type: ignore[arg-type]
    for index, values in enumerate(found):
        np.testing.assert_array_equal(values, expected[index % 3])


def test_all_rows_of_a_small_matrix_are_one_stretch() -> None:
    weight = Stored(Grid(4, 16)).weight(step=None)
    assert stretches(weight.dequantized(), 1) == [slice(0, OUTPUTS)]
    large = BlockwiseWeight("w", (5000, 4096), Grid(4, 16), Stored(Grid(4, 16)))
    assert large.step == 256


def test_who_gives_other_rows_than_asked_for_is_a_bug() -> None:
    held = Stored(Grid(4, 16))
    weight = BlockwiseWeight("w", (OUTPUTS, INPUTS), Grid(4, 16), lambda rows: held(slice(0, 1)))
    with pytest.raises(Bug, match="w: rows of another shape"):
        weight.rows(slice(0, 2))
    few = BlockwiseWeight("w", (OUTPUTS, INPUTS), Grid(4, 32), held)
    with pytest.raises(Bug):
        few.rows(slice(0, 2))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 31])
def test_nibbles(count: int, rng: np.random.Generator) -> None:
    codes = rng.integers(0, 16, (5, count), np.uint8)
    packed = nibbles(torch.from_numpy(codes)).numpy()
    assert packed.shape == (5, (count + 1) // 2)
    for row in range(5):
        assert unpacked(packed[row], 4, count) == codes[row].tolist()
        if count % 2:
            assert packed[row, -1] < 16
