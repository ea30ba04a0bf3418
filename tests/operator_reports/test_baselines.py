"""The project's own gate: what runs of m4-nano on every target is never less than its committed baseline says.

A whole preset takes a minute; here it is a few small graphs on all targets, each captured once.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from m4c.models import SUBMODELS
from m4c.operator_reports.captured import of_submodel
from m4c.operator_reports.gate import baseline
from m4c.operator_reports.gate.check import check
from m4c.operator_reports.gate.figures import of_judged, to_text
from m4c.operator_reports.gate.finding import Outcome
from m4c.operator_reports.gate.limits import Limits
from m4c.operator_reports.placement import Judged
from m4c.progress import Silent
from m4c.targets.profile import load_target, names
from tests.shell import Shell

FOLDER = Path(__file__).parent.parent.parent / "operator_reports/baseline"
PARTS = ("imu_enc", "gen_dec", "tts_dec/postnet")

Found = dict[str, list[Judged]]


@pytest.fixture(scope="module")
def found() -> Found:
    """Judge the graphs on every target."""
    targets = tuple(load_target(name) for name in names())
    made: Found = {name: [] for name in names()}
    for part in PARTS:
        submodel = part.partition("/")[0]
        for target, judged in of_submodel((part,), "m4-nano", targets, submodel, Silent()).items():
            made[target] += judged
    return made


def gated(judged: Sequence[Judged], target: str, folder: Path) -> Outcome:
    """Hold graphs against a folder of baselines."""
    figures = of_judged("m4-nano", target, judged)
    before = baseline.read(folder, "m4-nano", target)
    return check(judged, figures, load_target(target), Limits(), before, (), date.max, PARTS)


@pytest.mark.parametrize("target", names())
def test_every_target_has_a_baseline_of_all_sub_models(target: str) -> None:
    stored = baseline.read(FOLDER, "m4-nano", target)
    assert {graph.partition("/")[0] for graph in stored.graphs} == set(SUBMODELS)
    text = baseline.file_of(FOLDER, "m4-nano", target).read_text("utf-8")
    assert to_text(stored) == text  # as --update-baseline writes it


@pytest.mark.parametrize("target", names())
def test_nothing_is_worse_than_the_baseline_and_what_is_better_is_kept(target: str, found: Found) -> None:
    outcome = gated(found[target], target, FOLDER)
    assert len(outcome.checked) > len(PARTS)
    assert [(one.where, one.message) for one in outcome.failures] == []
    assert outcome.better == (), "m4c gate m4-nano --baseline operator_reports/baseline --update-baseline"


def test_a_worse_state_would_fail(found: Found, tmp_path: Path) -> None:
    text = baseline.file_of(FOLDER, "m4-nano", "edgetpu").read_text("utf-8")
    assert '"TRANSPOSE"' in text
    (tmp_path / "m4-nano.edgetpu.json").write_text(text.replace('"TRANSPOSE"', '"TRANSPOSED"'), "utf-8")
    failures = gated(found["edgetpu"], "edgetpu", tmp_path).failures
    assert {(one.rule, one.operator) for one in failures} == {("new-operators", "TRANSPOSE")}


def test_the_command(m4c: Shell) -> None:
    done = m4c("gate", "gen_dec", "--target", "edgetpu", "--baseline", FOLDER)
    assert (done.code, done.out[:26]) == (0, "m4-nano on edgetpu: passed")
