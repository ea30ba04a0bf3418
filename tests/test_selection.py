"""What a user selects: sub-models, graphs, dimensions."""

import pytest

from m4c.errors import UsageError
from m4c.models import SUBMODELS, build
from m4c.selection import DIMENSIONS, require_dimensions, require_sizes, selected_graphs, selected_submodels
from m4c.skeleton import skeleton


def test_submodels_come_in_their_own_order() -> None:
    assert selected_submodels(()) == list(SUBMODELS)
    assert selected_submodels(("gen_dec", "backbone/embed", "gen_dec/head")) == ["backbone", "gen_dec"]
    with pytest.raises(UsageError, match=r"no sub-model 'nope'\n  fix: choose from: img_enc, "):
        selected_submodels(("gen_dec", "nope/head"))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ((), ["embed", "decoder"]),
        (("backbone",), ["embed", "decoder"]),
        (("backbone/decoder",), ["decoder"]),
        (("backbone/decoder", "backbone"), ["embed", "decoder"]),
        (("backbone/decoder", "backbone/embed"), ["embed", "decoder"]),
        (("gen_dec/head",), ["embed", "decoder"]),
    ],
)
def test_graphs_of_a_submodel(names: tuple[str, ...], chosen: list[str]) -> None:
    with skeleton():
        submodel = build("backbone", "m4-nano")
    assert [g.name for g in selected_graphs(names, submodel)] == [f"backbone/{name}" for name in chosen]


def test_unknown_graphs_are_refused() -> None:
    with skeleton():
        submodel = build("gen_dec", "m4-nano")
    with pytest.raises(UsageError, match=r"no graph 'gen_dec/tail'\n  fix: choose from: gen_dec/head"):
        selected_graphs(("gen_dec/tail",), submodel)


def test_the_dimensions_are_those_of_all_graphs() -> None:
    found = set()
    for name in SUBMODELS:
        with skeleton():
            submodel = build(name, "m4-nano")
        ports = [port for graph in submodel.graphs for port in (*graph.inputs, *graph.outputs)]
        found |= {part for p in ports for d in p.shape if isinstance(d, str) for part in d.split(" + ")}
    assert found == set(DIMENSIONS)


def test_unknown_dimensions_are_refused() -> None:
    assert require_dimensions(["batch", "past"]) == {"batch", "past"}
    with pytest.raises(UsageError, match=r"no graph has a dimension 'bach'\n  fix: choose from: batch \("):
        require_dimensions(["bach"])


def test_sizes() -> None:
    assert require_sizes(["sequence=1", "past=511"], frozenset()) == (("past", 511), ("sequence", 1))
    several = require_sizes(["sequence=128", "sequence=16", "sequence=128"], frozenset())
    assert several == (("sequence", 16), ("sequence", 128))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("past=", "--size past= has no number"),
        ("past=x", "--size past=x has no number"),
        ("past", "--size past has no number"),
        ("pst=1", "no graph has a dimension 'pst'"),
        ("past=2", "past cannot be two things at once"),
        ("batch=2", "batch cannot be two things at once"),
    ],
)
def test_sizes_that_say_nothing(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        require_sizes(["past=1", text], frozenset({"batch"}))
