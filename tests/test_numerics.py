import math

import numpy as np
import pytest

from m4c.numerics import SQNR_FLOOR_DB, TOLERANCE, Difference, difference, sqnr, worst
from m4c.weights import Array

NAN, INF = math.nan, math.inf


def f(*values: float) -> Array:
    return np.array(values, np.float32)


def test_figures_by_hand() -> None:
    found = difference(f(0, 3, -4), f(0, 3, -4.5))
    assert found.max_absolute == 0.5
    assert found.max_relative == 0.125  # of the largest value, not of the one that differs
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25))
    assert str(found) == "max relative error 1.25e-01, SQNR 20.0 dB"


def test_scale_does_not_matter() -> None:
    small, large = difference(f(1, 2), f(1, 2.1)), difference(f(1e6, 2e6), f(1e6, 2.1e6))
    assert small.max_relative == pytest.approx(large.max_relative)
    assert small.sqnr_db == pytest.approx(large.sqnr_db, abs=1e-4)


def test_the_user_may_set_the_bound_of_integers() -> None:
    assert Difference(0, 9, 7.0).within("int8", 7.0)
    assert not Difference(0, 0, 30.0).within("int8", 30.5)
    assert Difference(0, 0, 7.0).allowed("int8", 7.5) == "SQNR of at least 7.5 dB"
    assert not Difference(0, 9, 99).within("float32", 1.0)  # floats have a tolerance of their own


def test_bounds_are_those_of_the_tables() -> None:
    for precision, bound in TOLERANCE.items():
        assert Difference(9, bound, -9).within(precision)
        assert not Difference(0, bound * 1.01, 99).within(precision)
        assert f"{bound:g}" in Difference(0, 0, 0).allowed(precision)
    for precision, floor in SQNR_FLOOR_DB.items():
        assert Difference(9, 9, floor).within(precision)
        assert not Difference(0, 0, floor - 0.01).within(precision)
        assert f"{floor:g} dB" in Difference(0, 0, 0).allowed(precision)


@pytest.mark.parametrize(
    ("expected", "actual", "good"),
    [
        (f(1, INF, -INF), f(1, INF, -INF), True),
        (f(1, INF), f(1, -INF), False),
        (f(1, INF), f(1, 2), False),
        (f(1, 2), f(1, INF), False),
        (f(1, 2), f(1, NAN), False),
        (f(1, NAN), f(1, 2), False),
        (f(1, NAN), f(1, NAN), False),
        (f(NAN, NAN), f(NAN, NAN), False),
        (f(-INF), f(-INF), True),
        (f(), f(), True),
        (f(0, 0), f(0, 0), True),
        (f(0, 0), f(0, 1), False),
    ],
)
@pytest.mark.parametrize("precision", [*TOLERANCE, *SQNR_FLOOR_DB])
def test_numbers_that_are_none_never_pass(expected: Array, actual: Array, good: bool, precision: str) -> None:
    assert difference(expected, actual).within(precision) is good


def test_integers_and_booleans() -> None:
    assert difference(np.array([1, 2]), np.array([1, 2])).max_absolute == 0
    assert difference(np.array([True, False]), np.array([True, True])).max_absolute == 1


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \(2,\) and \(1, 2\)"):
        difference(f(1, 2), f(1, 2)[None])


def test_sqnr_of_rounding_is_that_of_theory(rng: np.random.Generator) -> None:
    values = rng.uniform(-1, 1, 100_000)
    step = 2 / 255  # uniform noise of a step has the power step² / 12, the signal has 1/3
    rounded = np.rint(values / step) * step
    assert sqnr(values, rounded) == pytest.approx(10 * math.log10((1 / 3) / (step**2 / 12)), abs=0.1)


def test_sqnr_at_its_ends() -> None:
    assert sqnr(f(1), f(1)) == INF
    assert sqnr(f(0), f(1)) == -INF


def test_worst_of_each_kind() -> None:
    assert worst([Difference(1, 5, 30), Difference(2, 4, 20)]) == Difference(2, 5, 20)
