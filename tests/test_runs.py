"""Runs keep every item, in order, within the limit, and alone where asked."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from m4c.runs import cut

ITEMS = st.lists(st.tuples(st.integers(0, 12), st.booleans()))


@given(ITEMS, st.integers(1, 20))
def test_runs_are_the_items_in_their_order_and_no_larger_than_allowed(
    items: list[tuple[int, bool]], limit: int
) -> None:
    runs = list(cut(items, lambda item: item[0], limit, alone=lambda item: item[1]))
    assert [item for run in runs for item in run] == items
    for run in runs:
        assert len(run) == 1 or sum(size for size, _ in run) <= limit
        assert len(run) == 1 or not any(single for _, single in run)


@given(ITEMS, st.integers(1, 20))
def test_no_two_neighbours_could_be_one_run(items: list[tuple[int, bool]], limit: int) -> None:
    runs = list(cut(items, lambda item: item[0], limit, alone=lambda item: item[1]))
    for run, following in pairwise(runs):
        single = any(one for _, one in run) or following[0][1]
        assert single or sum(size for size, _ in run) + following[0][0] > limit
