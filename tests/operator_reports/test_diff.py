"""Two states beside each other: model files, bundles, reports and baselines, in each form."""

import json
from pathlib import Path

import pytest

from tests.bundles import Copy, edit_manifest
from tests.operator_reports.test_placement import CODES, chain
from tests.shell import Shell


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return (
        chain(tmp_path / "old.tflite", CODES.RELU, CODES.TANH, CODES.LOGISTIC),
        chain(tmp_path / "new.tflite", CODES.RELU, CODES.GELU, CODES.LOGISTIC, CODES.RELU),
    )


def test_files_differ_in_operators_and_size(m4c: Shell, files: tuple[Path, Path]) -> None:
    found = json.loads(m4c("diff", *files, "--json").out)
    assert found["kind"] == "diff"
    assert found["operators"] == {"tflite": {"gained": ["GELU"], "lost": ["TANH"]}}
    (graph,) = found["graphs"]
    assert (graph["graph"], graph["state"]) == ("old → new", "changed")
    assert graph["operators"] == {"GELU": [0, 1], "RELU": [1, 2], "TANH": [1, 0]}
    assert graph["figures"] == {"size": [path.stat().st_size for path in files]}


def test_a_target_adds_what_runs_there(m4c: Shell, files: tuple[Path, Path]) -> None:
    (graph,) = json.loads(m4c("diff", *files, "--target", "edgetpu", "--json").out)["graphs"]
    assert graph["figures"]["nodes"] == [{"all": 3, "on": 3}, {"all": 4, "on": 1}]
    assert graph["figures"]["outcome"] == ["whole", "split"]
    page = m4c("diff", *files, "--target", "edgetpu", "--format", "md").out
    assert "| old → new | nodes on the target | 100 % (3 of 3) | 25 % (1 of 4) |" in page
    assert "| all graphs | tflite operator types gained |  | GELU |" in page


def test_reports_are_compared_as_their_files_are(
    m4c: Shell, files: tuple[Path, Path], tmp_path: Path
) -> None:
    reports = []
    for path in files:
        reports.append(tmp_path / f"{path.stem}.json")
        text = m4c("report", path, "--target", "edgetpu", "--format", "json").out
        reports[-1].write_text(text, "utf-8")
    by_reports = json.loads(m4c("diff", *reports, "--json").out)
    by_files = json.loads(m4c("diff", *files, "--target", "edgetpu", "--json").out)
    assert by_reports["operators"] == by_files["operators"]
    (one,), (other,) = by_reports["graphs"], by_files["graphs"]
    assert one["operators"] == other["operators"]
    assert {k: v for k, v in one["figures"].items() if k != "size"} == {
        k: v for k, v in other["figures"].items() if k != "size"
    }
    plain = tmp_path / "plain.json"
    plain.write_text(m4c("report", files[0], "--format", "json").out, "utf-8")
    found = json.loads(m4c("diff", plain, reports[1], "--json").out)
    assert found["operators"] == by_files["operators"]


def test_equal_is_said_and_a_baseline_is_a_state(
    m4c: Shell, files: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = ("--target", "edgetpu", "--baseline", tmp_path, "--update-baseline")
    assert m4c("gate", files[0], *asked).code == 0
    stored = tmp_path / "old.tflite.edgetpu.json"
    found = json.loads(m4c("diff", stored, files[0], "--target", "edgetpu", "--json").out)
    assert [one["state"] for one in found["graphs"]] == ["equal"]
    assert "1 of 1 graphs are equal" in m4c("diff", stored, stored).out
    assert "Nothing differs." in m4c("diff", stored, stored, "--format", "md").out


def test_bundles_are_compared_by_their_manifests(m4c: Shell, int8_bundle: Path, copied: Copy) -> None:
    bundle = copied(int8_bundle)
    record = json.loads((bundle / "manifest.json").read_text("utf-8"))["submodels"][0]["graphs"][0]
    was = record["verification"]["sqnr_db"]
    edit_manifest(bundle, f'"sqnr_db": {was}', f'"sqnr_db": {was - 3}')
    (graph,) = json.loads(m4c("diff", int8_bundle, bundle, "--json").out)["graphs"]
    assert graph["figures"] == {"sqnr_db": [round(was, 2), round(was - 3, 2)]}


def test_what_cannot_be_compared_is_told(m4c: Shell, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"kind": "zoo"}', "utf-8")
    (tmp_path / "later.json").write_text('{"kind": "placement", "schema": 9, "graphs": []}', "utf-8")
    for other, message in (
        ("none", "there is nothing to compare at none"),
        (tmp_path / "odd.json", "its kind is 'zoo'"),
        (tmp_path / "later.json", "it has schema 9"),
    ):
        done = m4c("diff", files[0], other)
        assert (done.code, message in done.err, "fix:" in done.err) == (2, True, True)


def test_formats_are_not_mixed(m4c: Shell, files: tuple[Path, Path], float_bundle: Path) -> None:
    onnx = next(float_bundle.rglob("*.onnx"))
    (graph,) = json.loads(m4c("diff", files[0], onnx, "--json").out)["graphs"]
    assert (graph["operators"], graph["state"]) == ({}, "changed")
    assert "│ tflite" in m4c("diff", files[0], onnx).out
