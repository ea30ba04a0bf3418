import pytest

from m4c.errors import UsageError
from m4c.grid import Grid
from m4c.scheme import Scheme, scheme


@pytest.mark.parametrize(
    ("bits", "inputs", "group"),
    [
        (4, 4096, 64),
        (4, 96, 32),
        (4, 48, 16),
        (4, 40, None),
        (8, 4096, 128),
        (8, 192, 64),
        (8, 96, 32),
        (8, 16, 16),
        (8, 24, None),
    ],
)
def test_the_largest_known_group_that_divides(bits: int, inputs: int, group: int | None) -> None:
    assert Scheme(bits).grid("w", inputs) == Grid(bits, group)


def test_what_the_user_chose() -> None:
    assert Scheme(4, 16, symmetric=False).grid("w", 4096) == Grid(4, 16, False)
    assert Scheme(4, 0).grid("w", 4096) == Grid(4, None)
    assert Scheme(4, 256).grid("w", 4096) == Grid(4, 256)


def test_the_group_of_the_kept_is_chosen_anew() -> None:
    """A group size is that of the bits that were asked for."""
    mixed = Scheme(4, 16, symmetric=False, keep=(("head.*", "int8"),))
    assert mixed.grid("head.weight", 4096) == Grid(8, 128, False)
    assert mixed.grid("other.weight", 4096) == Grid(4, 16, False)


def test_tables_have_8_bits_and_no_zero_points() -> None:
    assert Scheme(4, symmetric=False).grid("embed", 4096, table=True) == Grid(8, 128)
    assert Scheme(4, 16).grid("embed", 4096, table=True) == Grid(8, 128)
    assert Scheme(8, 32).grid("embed", 4096, table=True) == Grid(8, 32)
    assert Scheme(8, 0).grid("embed", 4096, table=True) == Grid(8, None)


def test_the_first_pattern_that_fits_counts() -> None:
    kept = Scheme(4, keep=(("a.*", "float32"), ("*.weight", "int8"), ("b.*", "float32")))
    assert kept.grid("a.weight", 64) is None
    assert kept.grid("a.weight", 64, table=True) is None
    assert kept.grid("b.weight", 64) == Grid(8, 64)
    assert kept.grid("b.bias", 64) is None
    assert kept.grid("c", 64) == Grid(4, 64)
    assert kept.grid("A.other", 64) == Grid(4, 64)  # upper and lower case differ


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Scheme(4), "int4/auto, rtn"),
        (Scheme(8, 0, symmetric=False), "uint8/channel, rtn"),
        (
            Scheme(4, 32, keep=(("head.*", "int8"),), bits_budget=4.5),
            "int4/32, rtn, head.*=int8, 4.5 bits",
        ),
    ],
)
def test_as_a_pipeline_prints_it(made: Scheme, text: str) -> None:
    assert str(made) == text


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no method 'guess'") as caught:
        Scheme(4, method="guess")
    assert "rtn" in caught.value.fix
    with pytest.raises(UsageError, match=r"head\.\* cannot be kept in 'int2'") as caught:
        Scheme(4, keep=(("head.*", "int2"),))
    assert "float32, int8" in caught.value.fix


def test_options_as_a_user_gives_them() -> None:
    assert scheme("int4", None, True, "rtn", (), None) == Scheme(4)
    assert scheme("int8-weights", 0, False, "rtn", ("a=b=int8", "c.*=float32"), 5.0) == Scheme(
        8, 0, False, keep=(("a=b", "int8"), ("c.*", "float32")), bits_budget=5.0
    )


@pytest.mark.parametrize("precision", [None, "float32", "int8", "int16x8"])
def test_options_of_another_precision(precision: str | None) -> None:
    assert scheme(precision, None, True, "rtn", (), None) is None
    for options in (
        (32, True, "rtn", (), None),
        (0, True, "rtn", (), None),
        (None, False, "rtn", (), None),
        (None, True, "gptq", (), None),
        (None, True, "rtn", ("a=int8",), None),
        (None, True, "rtn", (), 4.5),
    ):
        with pytest.raises(UsageError, match="these options are for int8-weights and int4"):
            scheme(precision, *options)


@pytest.mark.parametrize("rule", ["head", "=int8", ""])
def test_rules_that_say_nothing(rule: str) -> None:
    with pytest.raises(UsageError, match="has no precision"):
        scheme("int4", None, True, "rtn", (rule,), None)


@pytest.mark.parametrize(
    ("bits", "inputs", "grid"),
    [
        (4, 4096, Grid(4, 128, short=True)),
        (4, 192, Grid(4, 64, short=True)),
        (4, 96, Grid(4, 32, short=True)),
        (4, 48, Grid(8, None, short=True)),
        (8, 4096, Grid(8, None, short=True)),
    ],
)
def test_grids_of_litert(bits: int, inputs: int, grid: Grid) -> None:
    made = Scheme(bits).for_litert()
    assert made.grid("w", inputs) == grid
    assert made.grid("t", inputs, table=True) == Grid(8, None, short=True)
    assert str(made) == f"int{bits}/auto, rtn, LiteRT"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Scheme(4, symmetric=False), "weights around zero alone"),
        (Scheme(4, 16), "4-bit weights with a group size of 16"),
        (Scheme(4, 0), "4-bit weights with a group size of 0"),
        (Scheme(8, 32), "8-bit weights with a group size of 32"),
    ],
)
def test_what_litert_does_not_compute(asked: Scheme, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        asked.for_litert()
