"""Records from JSON: everything that is not as annotated is refused by its place."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4c.record import from_json


@dataclass(frozen=True)
class Inner:
    name: str
    size: int | None
    shape: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Outer:
    items: tuple[Inner, ...]
    share: float
    good: bool
    extra: Mapping[str, Any] | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


INNER = st.builds(Inner, st.text(), st.integers() | st.none(), st.lists(st.integers() | st.text()).map(tuple))
OUTER = st.builds(
    Outer,
    st.lists(INNER, max_size=3).map(tuple),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none() | st.dictionaries(st.text(), st.integers()),
    st.dictionaries(st.text(), st.lists(st.text()).map(tuple), max_size=2),
)


@given(OUTER)
def test_what_is_written_is_read(record: Outer) -> None:
    text = json.dumps(dataclasses.asdict(record), allow_nan=False)
    assert from_json(Outer, json.loads(text)) == record


GOOD: dict[str, Any] = {"items": [{"name": "a", "size": 1}], "share": 1, "good": True}


def test_defaults_may_be_absent_and_whole_numbers_are_floats() -> None:
    made = from_json(Outer, GOOD)
    assert made == Outer((Inner("a", 1),), 1.0, True)
    assert type(made.share) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": "1"}, "share is '1', not float"),
        ({"share": True}, "share is True, not float"),
        ({"good": 1}, "good is 1, not bool"),
        ({"items": {}}, "items is {}, not tuple"),
        ({"items": [[]]}, r"items\[0\] is \[\], not an object"),
        ({"items": [{"name": "a"}]}, r"items\[0\].size is missing"),
        ({"items": [{"name": "a", "size": True}]}, r"items\[0\].size is True, not int"),
        ({"items": [{"name": 3, "size": 1}]}, r"items\[0\].name is 3, not str"),
        (
            {"items": [{"name": "a", "size": 1, "shape": [1.5]}]},
            r"items\[0\].shape\[0\] is 1.5, not int; .*not str",
        ),
        ({"names": {"a": "bc"}}, "names.a is 'bc', not tuple"),
        ({"names": None}, "names is None, not Mapping"),
        ({"more": 1}, "more is unknown"),
        ({"items": "x" * 100}, "items is 'x{39}…, not tuple"),
    ],
)
def test_other_types_are_refused_by_their_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        from_json(Outer, {**GOOD, **change})


@pytest.mark.parametrize("table", [None, [], "text", 3])
def test_only_objects_are_records(table: object) -> None:
    with pytest.raises(ValueError, match=r"^it is .*, not an object"):
        from_json(Outer, table)
