"""The forms that move, repeat and pick values: when they apply, when not, and that the numbers stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m4c.passes.canonicalize import Canonicalize
from tests.passes.rewriting import Rewritten, rewrite

CANONICALIZE = Canonicalize()


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def canonical(text: str, **constants: np.ndarray) -> Rewritten:
    """Rewrite a graph over constants in memory; ``n`` is 3 and ``m`` is 2."""
    return rewrite(CANONICALIZE, text, constants=constants, sizes={"n": 3, "m": 2})


@settings(deadline=None, max_examples=25)
@given(
    dims=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    places=st.sets(st.integers(0, 3), min_size=1, max_size=2),
)
def test_unsqueeze_and_squeeze_become_reshape(dims: list[int], places: set[int]) -> None:
    axes = [p for p in sorted(places) if p <= len(dims)]
    wide = np.expand_dims(np.zeros(dims), tuple(axes)).shape if axes else tuple(dims)
    if not axes:
        return
    there = canonical(f"g (float{dims} x) => (float{list(wide)} y) {{ y = Unsqueeze(x, a) }}", a=ints(*axes))
    assert there.operators == ["Reshape"]
    assert there.texts == ["Unsqueeze became Reshape"]
    back = canonical(f"g (float{list(wide)} x) => (float{dims} y) {{ y = Squeeze(x, a) }}", a=ints(*axes))
    assert back.operators == ["Reshape"]


@pytest.mark.parametrize(
    ("axis", "shape"), [(0, "1, 24"), (1, "2, 12"), (2, "6, 4"), (3, "24, 1"), (-1, "6, 4")]
)
def test_flatten_becomes_reshape(axis: int, shape: str) -> None:
    made = canonical(f"g (float[2, 3, 4] x) => (float[{shape}] y) {{ y = Flatten<axis = {axis}>(x) }}")
    assert made.operators == ["Reshape"]


def test_one_unknown_dimension_is_left_to_reshape() -> None:
    made = canonical("g (float[n, 4] x) => (float[n, 1, 4] y) { y = Unsqueeze(x, a) }", a=ints(1))
    assert made.operators == ["Reshape"]
    empty = rewrite(
        CANONICALIZE,
        "g (float[n, 4] x) => (float[n, 1, 4] y) { y = Unsqueeze(x, a) }",
        constants={"a": ints(1)},
        sizes={"n": 0},
    )
    assert empty.operators == ["Reshape"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("g (float[n, m] x) => (float[n, 1, m] y) { y = Unsqueeze(x, a) }", "two unknown dimensions"),
        ("g (float[0, 3] x) => (float[0, 1, 3] y) { y = Unsqueeze(x, a) }", "0 would be read as a copy"),
    ],
)
def test_what_reshape_cannot_say_stays(text: str, why: str) -> None:
    assert canonical(text, a=ints(1)).operators == ["Unsqueeze"], why


def test_two_reshapes_become_the_second() -> None:
    text = "g (float[2, 12] x) => (float[4, 6] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    for target in (ints(4, 6), ints(-1, 6)):
        made = canonical(text, s=ints(3, 8), t=target)
        assert made.operators == ["Reshape"]
        assert made.texts == ["two Reshapes became one"]


def test_a_chain_of_reshapes_becomes_one() -> None:
    text = "g (float[2, 12] x) => (float[24] y) { a = Reshape(x, s) b = Reshape(a, t) y = Reshape(b, u) }"
    assert canonical(text, s=ints(3, 8), t=ints(4, 6), u=ints(-1)).operators == ["Reshape"]


def test_a_target_that_copies_a_dimension_keeps_the_first_reshape() -> None:
    text = "g (float[2, 12] x) => (float[3, 2, 4] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    assert canonical(text, s=ints(3, 8), t=ints(0, 2, -1)).operators == ["Reshape", "Reshape"]


def test_a_computed_target_keeps_the_first_reshape() -> None:
    text = "g (float[2, 12] x, int64[2] t) => (float[n, m] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    made = rewrite(
        CANONICALIZE, text, constants={"s": ints(3, 8)}, feeds={"x": floats(2, 12), "t": ints(4, 6)}
    )
    assert made.operators == ["Reshape", "Reshape"]


def test_an_inner_reshape_with_another_reader_stays_for_it() -> None:
    text = (
        "g (float[2, 12] x) => (float[4, 6] y, float[3, 8] z) "
        "{ a = Reshape(x, s) y = Reshape(a, t) z = Neg(a) }"
    )
    made = canonical(text, s=ints(3, 8), t=ints(4, 6))
    assert made.operators == ["Reshape", "Reshape", "Mul"]
    assert [str(node.inputs[0].name) for node in made.model.graph if node.inputs[0]] == ["x", "x", "a"]


def test_an_inner_reshape_that_is_returned_stays() -> None:
    text = "g (float[2, 12] x) => (float[3, 8] a, float[4, 6] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    assert canonical(text, s=ints(3, 8), t=ints(4, 6)).operators == ["Reshape", "Reshape"]


def test_a_reshape_to_its_own_shape_goes_unless_it_makes_an_output() -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = Reshape(x, s) y = Relu(a) }"
    assert canonical(text, s=ints(0, 4)).operators == ["Relu"]
    text = "g (float[3, 4] x) => (float[3, 4] y) { y = Reshape(x, s) }"
    assert canonical(text, s=ints(3, 4)).operators == ["Reshape"]


def test_unknown_dimensions_of_other_names_are_other_shapes() -> None:
    text = "g (float[n, m] x, int64[2] s) => (float[a, b] y) { r = Reshape(x, s) y = Relu(r) }"
    made = rewrite(CANONICALIZE, text, feeds={"x": floats(3, 2), "s": ints(2, 3)})
    assert made.operators == ["Reshape", "Relu"]


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
@pytest.mark.parametrize("how", ["sizes", "equal", "uneven", "zero"])
def test_split_becomes_slices(axis: int, how: str) -> None:
    dims = [4, 4, 4]
    sizes = {"sizes": [1, 3], "equal": [2, 2], "uneven": [3, 1], "zero": [0, 4]}[how]
    shapes = [[*dims[: axis % 3], size, *dims[axis % 3 + 1 :]] for size in sizes]
    outputs = ", ".join(f"float{shape} y{i}" for i, shape in enumerate(shapes))
    if how in ("sizes", "zero"):
        made = canonical(
            f"g (float{dims} x) => ({outputs}) {{ y0, y1 = Split<axis = {axis}>(x, s) }}", s=ints(*sizes)
        )
    elif how == "equal":
        made = canonical(
            f"g (float{dims} x) => ({outputs}) {{ y0, y1 = Split<axis = {axis}, num_outputs = 2>(x) }}"
        )
    else:  # seven in two parts: ONNX makes the last one smaller
        dims[axis % 3] = 7
        shapes = [[*dims[: axis % 3], size, *dims[axis % 3 + 1 :]] for size in (4, 3)]
        outputs = ", ".join(f"float{shape} y{i}" for i, shape in enumerate(shapes))
        made = canonical(
            f"g (float{dims} x) => ({outputs}) {{ y0, y1 = Split<axis = {axis}, num_outputs = 2>(x) }}"
        )
    assert made.operators == ["Slice", "Slice"]
    assert made.texts == ["Split became 2 Slices"]


def test_a_split_of_an_unknown_dimension_stays() -> None:
    text = (
        "g (float[n, 4] x) => (float[a, 4] y, float[b, 4] z) { y, z = Split<axis = 0, num_outputs = 2>(x) }"
    )
    assert canonical(text).operators == ["Split"]


@pytest.mark.parametrize(
    ("shape", "indices"), [("4, 2", ints(0, 3, 1)), ("4", ints(2, 2)), ("4, 2", ints(-1, 0))]
)
def test_gather_nd_of_single_indices_becomes_gather(shape: str, indices: np.ndarray) -> None:
    rest = shape[1:]
    text = (
        f"g (float[{shape}] x, int64[{len(indices)}] i) => (float[{len(indices)}{rest}] y) "
        "{ u = Unsqueeze(i, a) y = GatherND(x, u) }"
    )
    dims = [int(d) for d in shape.split(", ")]
    made = rewrite(
        CANONICALIZE, text, constants={"a": ints(-1)}, feeds={"x": floats(*dims), "i": indices}, exact=True
    )
    assert made.operators == ["Gather"]


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (
            "g (float[4, 2] x, int64[2] i) => (float[1] y) { u = Unsqueeze(i, a) y = GatherND(x, u) }",
            {"a": ints(0)},
        ),
        (
            "g (float[2, 4] x, int64[2] i) => (float[2] y) "
            "{ u = Unsqueeze(i, a) y = GatherND<batch_dims = 1>(x, u) }",
            {"a": ints(1)},
        ),
        ("g (float[4, 2] x, int64[3, 1] u) => (float[3, 2] y) { y = GatherND(x, u) }", {}),
        (
            "g (float[4, 2] x, int64[6] i) => (float[2, 3, 2] y) { u = Reshape(i, s) y = GatherND(x, u) }",
            {"s": ints(2, 3, 1)},
        ),
    ],
    ids=["pairs", "batch", "computed", "reshaped otherwise"],
)
def test_other_gather_nds_stay(text: str, constants: dict[str, np.ndarray]) -> None:
    assert "GatherND" in canonical(text, **constants).operators


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 2, -1, -3])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_of_one_row_becomes_slice(rank: int, index: int, axis: int) -> None:
    shape = [3, 3]
    shape[axis : axis % 2 + 1] = [1] * rank
    picked = np.full([1] * rank, index, np.int64)
    text = f"g (float[3, 3] x) => (float{shape} y) {{ y = Gather<axis = {axis}>(x, i) }}"
    made = rewrite(CANONICALIZE, text, constants={"i": picked}, exact=True)
    assert made.operators == ["Slice", "Reshape"]
    assert made.texts == ["Gather of one row became Slice"]


def test_gather_from_unknown_rows() -> None:
    text = "g (float[n, 4] x) => (float[4] y) { y = Gather<axis = 0>(x, i) }"
    assert canonical(text, i=np.array(1, np.int64)).operators == ["Slice", "Reshape"]
    assert canonical(text, i=np.array(-1, np.int64)).operators == ["Gather"]
    text = "g (float[3, n, m] x) => (float[n, m] y) { y = Gather<axis = 0>(x, i) }"
    untouched = canonical(text, i=np.array(1, np.int64))
    assert untouched.operators == ["Gather"]
    assert list(untouched.model.graph.initializers) == ["i"]


def test_gather_of_several_or_computed_rows_stays() -> None:
    text = "g (float[3, 4] x) => (float[2, 4] y) { y = Gather(x, i) }"
    assert canonical(text, i=ints(0, 2)).operators == ["Gather"]
    text = "g (float[3, 4] x, int64 i) => (float[4] y) { y = Gather(x, i) }"
    assert canonical(text).operators == ["Gather"]


def test_gather_of_all_rows_goes_in_order_only() -> None:
    text = "g (float[3, 4] x) => (float[3, 4] y) { a = Gather(x, i) y = Relu(a) }"
    assert canonical(text, i=ints(0, 1, 2)).operators == ["Relu"]
    assert canonical(text, i=ints(0, 2, 1)).operators == ["Gather", "Relu"]
    text = "g (float[3, 4] x) => (float[1, 3, 4] y) { a = Gather(x, i) y = Relu(a) }"
    assert canonical(text, i=ints(0, 1, 2).reshape(1, 3)).operators == ["Gather", "Relu"]
    text = "g (float[3, 4] x) => (float[3, 4] y) { y = Gather(x, i) }"
    assert canonical(text, i=ints(0, 1, 2)).operators == ["Gather"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("side", [0, 1])
def test_expand_before_broadcasting_goes(op: str, side: int) -> None:
    operands = ["e", "z"] if side == 0 else ["z", "e"]
    text = (
        f"g (float[4] x, float[2, 3, 4] z) => (float[2, 3, 4] y) "
        f"{{ e = Expand(x, s) y = {op}({', '.join(operands)}) }}"
    )
    made = canonical(text, s=ints(2, 3, 4))
    assert made.operators == [op]
    assert made.texts == ["Expand before broadcasting removed"]


def test_one_of_two_expands_is_needed() -> None:
    text = (
        "g (float[1, 4] x, float[3, 1] z) => (float[3, 4] y) "
        "{ e = Expand(x, s) f = Expand(z, s) y = Add(e, f) }"
    )
    assert canonical(text, s=ints(3, 4)).operators == ["Expand", "Add"]


@pytest.mark.parametrize(
    "body",
    [
        "e = Expand(x, s) y = Add(e, e)",
        "e = Expand(x, s) y = Relu(e)",
        "y = Expand(x, s)",
        "e = Expand(x, s) y = Add(e, one)",
        "e = Expand(x, s) a = Add(e, z) b = Relu(e) y = Add(a, b)",
        "e = Expand(x, s) y = MatMul(e, z)",
    ],
    ids=["itself", "not broadcasting", "output", "smaller other", "other reader", "matrix"],
)
def test_an_expand_that_is_needed_stays(body: str) -> None:
    text = f"g (float[1, 3] x, float[3, 3] z) => (float[3, 3] y) {{ {body} }}"
    constants = {"s": ints(3, 3), **({"one": np.array(2, np.float32)} if "one" in body else {})}
    assert "Expand" in canonical(text, **constants).operators


def test_tile_and_expand_to_their_own_shape_go() -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = Tile(x, r) y = Relu(a) }"
    text = text.replace("[n, 4]", "[3, 4]")
    assert canonical(text, r=ints(1, 1)).operators == ["Relu"]
    text = "g (float[3, 4] x) => (float[3, 4] y) { a = Expand(x, s) y = Relu(a) }"
    assert canonical(text, s=ints(1, 4)).operators == ["Relu"]
    text = "g (float[3, 4] x) => (float[6, 4] y) { a = Tile(x, r) y = Relu(a) }"
    assert canonical(text, r=ints(2, 1)).operators == ["Tile", "Relu"]


def test_casts_to_the_same_dtype_go() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Cast<to = 1>(x) y = Relu(a) }"
    assert canonical(text).operators == ["Relu"]
    text = "g (float[4] x) => (float[4] y) { y = Cast<to = 1>(x) }"
    assert canonical(text).operators == ["Cast"]
    text = "g (float[4] x) => (int64[4] y) { a = Cast<to = 7>(x) y = Abs(a) }"
    assert canonical(text).operators == ["Cast", "Abs"]


def test_identities_go_but_those_that_name_an_output() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Identity(x) b = Identity(a) y = Relu(b) }"
    assert canonical(text).operators == ["Relu"]
    text = "g (float[4] x) => (float[4] y, float[4] z) { y = Identity(x) z = Relu(y) }"
    assert canonical(text).operators == ["Identity", "Relu"]
