"""The zoo: every task has a model of the right size, and what is stored is what is counted."""

import json
import sys
from pathlib import Path

import pytest

from m4c import cli
from m4c.errors import CaptureError, UsageError
from m4c.operator_reports.zoo import baseline, measure, placed, render
from m4c.operator_reports.zoo.baseline import LEVELS, STORED, Baseline, stored
from m4c.operator_reports.zoo.figure import draw
from m4c.operator_reports.zoo.registry import BUILDERS, ENTRIES, Entry
from m4c.progress import Silent

FAST = ("cnn:mlp", "cnn:keyword_spotter", "text:word_rnn")
"""Builders of small models, captured within seconds."""


def test_every_task_has_an_entry() -> None:
    assert [entry.task for entry in ENTRIES] == [f"T{i}" for i in range(1, 51)]


@pytest.mark.parametrize("builder", BUILDERS)
def test_sizes_are_the_papers_or_a_reason_is_given(builder: str) -> None:
    count = measure.parameters(measure.built(builder))
    assert count == stored().data["models"][builder]["parameters"]
    for entry in ENTRIES:
        if entry.builder == builder:
            off = abs(count / 1e6 / entry.paper - 1)
            assert (off > 0.1) == bool(entry.differs), (
                f"{entry.task} has {count / 1e6:.4g} M of {entry.paper}"
            )


def test_at_least_45_models_are_counted_and_the_others_say_why() -> None:
    found = stored()
    assert sum(not found.failed(entry) for entry in ENTRIES) >= 45
    for entry in ENTRIES:
        assert bool(found.failed(entry)) != all(found.counts(entry, level) for level in LEVELS)


@pytest.mark.parametrize("builder", FAST)
def test_stored_counts_are_those_of_a_capture(builder: str) -> None:
    counts, runs = measure.of_builder(builder, Silent())
    assert counts == stored().data["models"][builder]
    assert runs == placed.stored().data["models"][builder]


def test_the_stored_file_is_complete_and_was_made_by_these_libraries() -> None:
    found = json.loads(STORED.read_text("utf-8"))
    assert set(found["models"]) == set(BUILDERS)
    for graphs in [*(model["graphs"] for model in found["models"].values()), found["m4"]]:
        assert all(set(counts) == set(LEVELS) for counts in graphs.values())


def test_a_model_that_cannot_be_captured_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_graph: object) -> None:
        raise CaptureError("torch.export failed: a test of values", where="mlp")

    monkeypatch.setattr(measure, "exported", fail)
    made, _ = measure.of_builder("cnn:mlp", Silent())
    assert "torch.export failed: a test of values" in made["failed"]
    assert made["graphs"] == {}


def at_all_levels(counts: dict[str, int]) -> dict[str, dict[str, int]]:
    return {level: dict(counts) for level in LEVELS}


SMALL = Baseline(
    {
        "opset": 20,
        "libraries": {"torch": "2"},
        "models": {
            builder: {
                "parameters": 7,
                "graphs": {"a": at_all_levels({"Add": 2}), "b": at_all_levels({"Add": 1})},
            }
            for builder in BUILDERS
        }
        | {
            "text:marian": {"parameters": 7, "graphs": {"a": at_all_levels({"Add": 1, "Erf": 3})}},
            "cnn:sasnet": {
                "parameters": 7,
                "failed": "why",
                "graphs": {"a": at_all_levels({"Tan": 1})},
            },
        },
        "m4": {
            "img_enc/encoder": at_all_levels({"Add": 1}),
            "gen_dec/head": at_all_levels({"MatMul": 4}),
        },
    }
)


def entry(task: str) -> Entry:
    return next(e for e in ENTRIES if e.task == task)


def test_growth_and_use() -> None:
    steps = SMALL.growth("onnx")
    assert [(s.union, s.new) for s in steps[:5]] == [(1, ("Add",)), (1, ()), (1, ()), (2, ("Erf",)), (2, ())]
    assert steps[-1].union == 2  # what failed is not counted, not even its first graphs
    assert SMALL.counts(entry("T1"), "onnx") == {"Add": 3}
    assert SMALL.uses("onnx") == {"Add": 49, "Erf": 1}
    assert SMALL.m4("onnx") == {"Add": 1, "MatMul": 4}
    assert SMALL.m4_uses("onnx") == {"Add": 1, "MatMul": 1}


def test_every_form_of_the_report_says_the_same() -> None:
    made = render.to_json(SMALL)
    assert json.loads(json.dumps(made)) == made
    assert isinstance(made["tasks"], list)
    assert [t["failed"] for t in made["tasks"] if t["failed"]] == ["why"]
    table = render.to_table(SMALL)
    assert table.row_count == 51
    text = render.to_markdown(SMALL)
    assert "| T4 | Transformer | 2 | 2 | 2 | 2 | 2 | 2 | 2 | 2 | Erf |" in text
    assert "| T30 | SASNet | 0 | 2 | 0 | 2 | 0 | 2 | 0 | 2 | why |" in text
    assert "| T25 | MSINet° |" in text
    assert "156 for the models of 50 tasks" in text
    assert "| Add | 49 | 1 |\n| Erf | 1 | 0 |\n| MatMul | 0 | 1 |" in text
    assert "49 of 50 task-specific models, 5 of them proxies" in text


def test_proxies_say_what_is_not_known() -> None:
    assert {e.task for e in ENTRIES if e.proxy} == {"T15", "T25", "T33", "T44", "T45"}


def test_the_command_measures_stores_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(baseline, "STORED", tmp_path / "baseline" / "zoo.json")
    runs = {"targets": {"cpu": "digest"}, "models": {}, "m4": {}}
    monkeypatch.setattr(placed, "STORED", tmp_path / "baseline" / "zoo_targets.json")
    monkeypatch.setattr(measure, "measured", lambda _progress, _jobs: (SMALL.data, runs))
    monkeypatch.setattr(sys, "argv", ["m4c", "report", "zoo", "--measure", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == render.to_json(SMALL)
    assert stored() == SMALL
    assert placed.stored().data == runs


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib\n  fix: pip install 'm4c\[figures\]'"):
        draw(SMALL, tmp_path / "zoo.svg")


def test_the_pictures_name_what_they_show_and_are_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        assert draw(SMALL, tmp_path / name) == tmp_path / name.replace(".", "-use.")
    for name in ("{}.svg", "{}-use.svg", "{}.png", "{}-use.png"):
        assert (tmp_path / name.format("a")).read_bytes() == (tmp_path / name.format("b")).read_bytes()
    assert "50 models, torch's ONNX export: 2" in (tmp_path / "a.svg").read_text("utf-8")
    use = (tmp_path / "a-use.svg").read_text("utf-8")
    assert "share of M4's 2 graphs: 2 types" in use
    assert "share of the models of 50 tasks: 2 types" in use
    with pytest.raises(UsageError, match=r"a picture is an \.svg or a \.png file"):
        draw(SMALL, tmp_path / "zoo.jpg")
    with pytest.raises(UsageError, match="cannot write the picture"):
        draw(SMALL, tmp_path / "none" / "zoo.svg")
