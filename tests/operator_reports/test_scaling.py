"""Scaling: what is stored is what is measured, sums are those of the parts, and every form of the report says the same."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from m4c import cli, scaling
from m4c.errors import UsageError
from m4c.models import SUBMODELS
from m4c.operator_reports.zoo import render_scaling
from m4c.operator_reports.zoo import scaling as stored_sizes
from m4c.operator_reports.zoo.activations import activation_bytes
from m4c.operator_reports.zoo.baseline import stored
from m4c.operator_reports.zoo.figure import draw_scaling
from m4c.operator_reports.zoo.network import graph
from m4c.operator_reports.zoo.paths import PARTS, PATHS
from m4c.operator_reports.zoo.registry import BUILDERS, ENTRIES
from m4c.operator_reports.zoo.scaling import IN_INT4, M4, MODELS, REST, stored_scaling
from m4c.progress import Silent
from m4c.skeleton import skeleton
from m4c.tasks import TASKS

FOUND = stored_scaling(stored())


def test_a_value_is_held_until_its_last_reader_has_run() -> None:
    def call(_module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        doubled = x * 2  # input and this: 2
        del x
        wide = torch.cat([doubled, doubled])  # and two more: 4, the most
        doubled = wide[:100] + 1  # the first is gone: 1 + 2 + 1
        return doubled.view(10, 10).t().reshape(100)[:50]  # views, and one copy: the wide one is gone

    assert activation_bytes(graph("a", nn.Identity(), call, x=(100,))) == 4 * 400 + 400


def test_weights_are_no_values_and_scores_of_attention_are() -> None:
    with skeleton():
        linear = nn.Linear(64, 32, bias=False)
    assert activation_bytes(graph("linear", linear, x=(8, 64))) == 4 * 8 * (64 + 32)

    def attend(_module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)

    scores = 4 * 2 * 256 * 256
    assert activation_bytes(graph("attention", nn.Identity(), attend, x=(1, 2, 256, 8))) >= 2 * scores


def test_stored_sizes_are_those_of_a_measurement() -> None:
    for builder in ("cnn:mlp", "vision:vitpose", "speech:crdnn_asr"):
        assert scaling.of_builder(builder, Silent()) == FOUND.data["models"][builder]
    assert scaling.of_submodel("projection", Silent()) == FOUND.data["m4"]["projection"]
    assert set(FOUND.data["models"]) == set(BUILDERS)
    assert set(FOUND.data["m4"]) == set(SUBMODELS) == {*IN_INT4, "img_dec"}


def test_adapters_have_the_papers_size() -> None:
    assert FOUND.data["m4"]["backbone"]["adapter"] == 2_097_152
    assert FOUND.data["m4"]["imu_enc"]["adapter"] == 49_152
    assert FOUND.adapter("T5") == 4 * 2_097_152
    assert FOUND.adapter("T44") == 4 * 2_097_152 + FOUND.data["m4"]["projection"]["bytes"][REST]


def test_every_task_has_parts_and_they_are_those_that_m4c_runs() -> None:
    assert set(PARTS) == {entry.task for entry in ENTRIES}
    count = {path: sum(parts.path == path for parts in PARTS.values()) for path in PATHS}
    assert count == {1: 10, 2: 25, 3: 13, 4: 2}
    for task, one in TASKS.items():
        assert {name.partition("/")[0] for name in one.graphs} <= set(PARTS[task].submodels)
        assert (
            task == "T48" or one.path == PARTS[task].path
        )  # m4c makes its pictures of text, the paper of sound too
    for parts in PARTS.values():
        assert set(parts.submodels) <= set(SUBMODELS)
        assert FOUND.data["m4"][parts.adapted]["adapter"] > 0


def test_sums_are_those_of_the_parts() -> None:
    halves, floats = FOUND.models("float16"), FOUND.models("float32")
    assert halves[0].storage == 2 * stored().parameters(ENTRIES[0])
    assert halves[-1].storage == 2 * sum(stored().parameters(entry) for entry in ENTRIES)
    values = sum(FOUND.activations(entry) for entry in ENTRIES)
    assert floats[-1].memory - floats[-1].storage == halves[-1].memory - halves[-1].storage == values
    for build in M4:
        line = FOUND.m4(build)
        room = {point.memory - point.storage for point in line}
        assert room == {max(FOUND.m4_activations().values())}
        assert line[-1].storage == FOUND.m4_bytes(build) + sum(FOUND.adapter(e.task) for e in ENTRIES)
    int4 = FOUND.data["m4"]["backbone"]["bytes"]["int4"]
    assert int4 == pytest.approx(3.87e9, rel=1e-3)  # what the export of LLaMA-7B wrote
    assert FOUND.m4_bytes("int8") - FOUND.m4_bytes("int4") == (
        FOUND.data["m4"]["backbone"]["bytes"]["int8-weights"] - int4
    )


def test_break_even_is_where_the_lines_cross() -> None:
    count = FOUND.break_even("int4", "float32")
    assert count is not None
    models, m4 = FOUND.models("float32"), FOUND.m4("int4")
    assert models[count - 1].storage > m4[count - 1].storage
    assert models[count - 2].storage <= m4[count - 2].storage
    assert FOUND.break_even("int8", "int8") is None


def test_every_form_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = render_scaling.to_json(FOUND)
    assert json.loads(json.dumps(made)) == made
    gigabytes = FOUND.m4("int4")[-1].storage / 1e9
    text = render_scaling.to_markdown(FOUND)
    (row,) = (line for line in text.split("Resident")[0].splitlines() if line.startswith("| 50 |"))
    assert row.split(" | ")[5] == f"{gigabytes:.2f}"
    assert [table.row_count for table in render_scaling.to_tables(FOUND)] == [11, 11]
    monkeypatch.setattr(sys, "argv", ["m4c", "report", "scaling", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, json.loads(capsys.readouterr().out)) == (0, made)


def test_the_page_has_the_stored_figures() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text("utf-8")
    rows = render_scaling.to_markdown(FOUND).splitlines()
    for count in (15, 30, 50):
        for row in (row for row in rows if row.startswith(f"| {count} |")):
            assert row in page


def test_the_command_measures_and_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_sizes, "STORED", tmp_path / "scaling.json")
    monkeypatch.setattr(scaling, "measured", lambda _progress, _jobs: FOUND.data)
    monkeypatch.setattr(sys, "argv", ["m4c", "report", "scaling", "--measure", "--format", "md"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert stored_scaling(stored()) == FOUND


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draw_scaling(FOUND, tmp_path / "a.jpg")
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    for name in ("a.svg", "b.svg"):
        draw_scaling(FOUND, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "M4, backbone in INT4" in (tmp_path / "a.svg").read_text("utf-8")


def test_larger_models_take_more() -> None:
    data = FOUND.zoo.data
    grown = {name: one | {"parameters": 2 * one["parameters"]} for name, one in data["models"].items()}
    zoo = replace(FOUND.zoo, data={**data, "models": grown})
    more = replace(FOUND, zoo=zoo)
    for precision in MODELS:
        assert more.models(precision)[-1].storage == 2 * FOUND.models(precision)[-1].storage
    assert (more.break_even("int4", "float16") or 99) < (FOUND.break_even("int4", "float16") or 0)
