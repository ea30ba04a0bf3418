"""Where the zoo runs: what is stored is what is judged, outcomes of graphs add up, and every form says the same."""

import json
import sys
from pathlib import Path

import pytest

from m4c.errors import UsageError
from m4c.operator_reports.zoo import placed, render_placed
from m4c.operator_reports.zoo.figure import draw_placed
from m4c.operator_reports.zoo.placed import OUTCOMES, STORED, Placed, fate, stored
from m4c.operator_reports.zoo.registry import BUILDERS, ENTRIES
from m4c.targets.profile import names
from tests.shell import Shell

WHOLE: dict[str, object] = {
    "outcome": "whole",
    "nodes": [4, 4],
    "macs": [10, 10],
    "partitions": 1,
    "break": "",
}
SPLIT = {"outcome": "split", "nodes": [6, 3], "macs": [30, 20], "partitions": 2, "break": "GATHER"}
REFUSED = {"outcome": "refused", "nodes": [5, 0], "macs": [7, 0], "partitions": 0, "break": "EQUAL"}
UNKNOWN = {"outcome": "not converted", "why": "no function for DFT"}
BY_HOST = {"outcome": "host", "why": "rows looked up"}


def small(**models: object) -> Placed:
    """Return placements on a target ``a`` where every model is whole but those given, by builder with _ for a colon."""
    held: dict[str, dict[str, object]] = {builder: {"a": {"g": WHOLE}} for builder in BUILDERS}
    for name, graphs in models.items():
        held[name.replace("_", ":", 1)] = {"a": graphs}
    m4: dict[str, dict[str, object]] = {"a": {"x/whole": WHOLE, "x/split": SPLIT, "x/embed": BY_HOST}}
    return Placed(
        {
            "schema": 1,
            "opset": 20,
            "libraries": {"torch": "2"},
            "targets": {"a": "digest"},
            "models": held,
            "m4": m4,
        }
    )


SMALL = small(
    cnn_mlp={"g": SPLIT},
    cnn_sasnet={"g": WHOLE, "h": UNKNOWN},
    text_bart={"g": WHOLE, "h": REFUSED},
    text_bert={"g": REFUSED},
)


@pytest.mark.parametrize(
    ("rows", "outcome", "reason"),
    [
        ([WHOLE, WHOLE], "whole", ""),
        ([WHOLE, SPLIT], "split", "GATHER"),
        ([WHOLE, REFUSED], "split", "EQUAL"),
        ([REFUSED, REFUSED], "refused", "EQUAL"),
        ([SPLIT, UNKNOWN, WHOLE], "not converted", "no function for DFT"),
        ([WHOLE, BY_HOST], "whole", ""),
        ([BY_HOST], "host", "rows looked up"),
    ],
)
def test_graphs_together_are_what_the_worst_lets_them_be(
    rows: list[dict[str, object]], outcome: str, reason: str
) -> None:
    found = fate(rows)
    assert (found.outcome, found.reason) == (outcome, reason)


def test_figures_are_those_of_the_graphs_together() -> None:
    found = fate([WHOLE, SPLIT, UNKNOWN])
    assert (found.nodes, found.delegated, found.macs, found.taken, found.partitions) == (10, 7, 40, 30, 3)


def test_models_and_graphs_are_counted_by_outcome() -> None:
    assert SMALL.outcomes("a") == {"whole": 46, "split": 2, "refused": 1, "not converted": 1}
    assert SMALL.m4_outcomes("a") == {"whole": 1, "split": 1, "refused": 0, "not converted": 0}
    assert SMALL.partitions("a") == [1, 2]


def test_every_form_says_the_same() -> None:
    made = render_placed.to_json(SMALL, ["a"])
    assert json.loads(json.dumps(made)) == made
    table, outcomes = render_placed.to_table(SMALL, "a"), render_placed.to_outcomes(SMALL, ["a"])
    assert table.row_count == len(ENTRIES) + 3
    assert outcomes.row_count == 1
    text = render_placed.to_markdown(SMALL, ["a"])
    assert "| a | 46 | 2 | 1 | 1 | 1.5 | 2 | 1 | 1 | 0 | 0 |" in text
    assert "| T38 | MLP | split | 6 | 3 | 67 % | 2 | GATHER |" in text
    assert "| T30 | SASNet | not converted | 4 | 4 | 100 % | 1 | no function for DFT |" in text
    assert "| M4 | x/embed | host |  |  |  |  | rows looked up |" in text
    assert "8 % wholly there, 49 % on CPU and NPU together, 30 % fail, 13 % are not converted" in text
    assert "An upper bound" in text


def test_the_stored_file_is_complete_and_small() -> None:
    found = stored()
    assert set(found.targets) == set(names())
    assert set(found.data["models"]) == set(BUILDERS)
    for runs in found.data["models"].values():
        assert set(runs) == set(names())
    for target in found.targets:
        assert sum(found.outcomes(target).values()) == len(ENTRIES)
        assert len(found.of_m4(target)) == 19
    assert STORED.stat().st_size < 300_000


def test_what_is_stored_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "STORED", tmp_path / "baseline" / "zoo_targets.json")
    placed.store(SMALL.data)
    assert stored() == SMALL


def test_the_command_shows_one_target_or_all(m4c: Shell) -> None:
    one, every = m4c("report", "zoo", "--target", "gpu"), m4c("report", "zoo", "--target", "all")
    assert (one.code, every.code) == (0, 0)
    assert "The models of 50 tasks, and M4, on gpu" in one.out
    assert all(name in every.out for name in names())
    made = json.loads(m4c("report", "zoo", "--target", "gpu", "--target", "cpu", "--json").out)
    assert list(made["targets"]) == ["gpu", "cpu"]
    assert set(made["outcomes"]) == set(OUTCOMES)


def test_a_profile_that_changed_since_is_named(m4c: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    found = stored()
    older = Placed({**found.data, "targets": {**found.data["targets"], "gpu": "another"}})
    monkeypatch.setattr(placed, "stored", lambda: older)
    assert "gpu: the profile has changed since" in m4c("report", "zoo", "--target", "gpu").err
    assert "has changed" not in m4c("report", "zoo", "--target", "cpu").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zoo", "--target", "abacus"), "the zoo was not judged on abacus"),
        (("zoo", "--target", "gpu", "--measure"), "--measure asks all targets"),
        (("scaling", "--target", "gpu"), "scaling is counted, not placed on a target"),
    ],
)
def test_what_cannot_be_asked(arguments: tuple[str, ...], message: str, m4c: Shell) -> None:
    done = m4c("report", *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="needs matplotlib"):
        draw_placed(SMALL, ["a"], tmp_path / "a.svg")


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    for name in ("a.svg", "b.svg"):
        draw_placed(SMALL, ["a"], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "models of 50 tasks" in (tmp_path / "a.svg").read_text("utf-8")
