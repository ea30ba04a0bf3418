"""The gate as a user of it meets it: a change that adds an operator, waivers, thresholds, baselines, and what is written."""

import dataclasses
import json
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from m4c import gating
from m4c.operator_reports.gate import render
from m4c.operator_reports.gate.baseline import read
from m4c.operator_reports.gate.check import check
from m4c.operator_reports.gate.figures import Figures, Share, from_text, of_judged, to_text
from m4c.operator_reports.gate.limits import RULES, Limits
from m4c.operator_reports.placement import NotConverted, place
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite
from tests.bundles import Copy, edit_manifest
from tests.operator_reports.test_placement import CODES, chain
from tests.shell import Shell

GOOD = (CODES.RELU, CODES.TANH, CODES.LOGISTIC, CODES.RELU)
WORSE = (CODES.RELU, CODES.TANH, CODES.GELU, CODES.LOGISTIC, CODES.RELU)
GELU_WAIVER = """
[[waiver]]
rule = "unsupported"
target = "edgetpu"
operator = "GELU"
owner = "anna@example.org"
reason = "until the next release of the head"
expires = 2027-01-31
"""


@pytest.fixture
def model(tmp_path: Path, m4c: Shell) -> Path:
    """Return a file that the Edge TPU runs as a whole, with its baseline in ``baseline``."""
    path = chain(tmp_path / "m.tflite", *GOOD)
    done = m4c("gate", path, "--target", "edgetpu", "--baseline", tmp_path / "baseline", "--update-baseline")
    assert (done.code, done.out) == (0, "")
    return path


def gate(m4c: Shell, model: Path, *more: object) -> Any:
    return m4c("gate", model, "--target", "edgetpu", "--baseline", model.parent / "baseline", *more)


def on(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    monkeypatch.setattr(gating, "today", lambda: date.fromisoformat(day))


def waived(folder: Path, text: str = GELU_WAIVER) -> Path:
    path = folder / "waivers.toml"
    path.write_text(text, "utf-8")
    return path


def test_what_is_as_it_was_passes(m4c: Shell, model: Path) -> None:
    done = gate(m4c, model)
    assert (done.code, done.err) == (0, "")
    assert done.out == "m.tflite on edgetpu: passed (1 graph, 9 rules, evidence: table)\n"


def test_an_added_operator_fails_with_operator_node_target_and_fix(m4c: Shell, model: Path) -> None:
    chain(model, *WORSE)
    done = gate(m4c, model)
    assert done.code == 4
    assert done.err == (
        "error: the gate failed: GELU does not run on edgetpu: 1 node, 0 in the baseline; "
        "GELU is not among the 40 operators of edgetpu\n"
        "  at:  m: #2 GELU (t3) on edgetpu\n"
        "  fix: rewrite it with operators that run there, or let it run on the CPU\n"
    )
    screen = done.out.splitlines()[:24]
    assert screen[0] == "m.tflite on edgetpu: failed, 4 findings (1 graph, 9 rules, evidence: table)"
    rules = [line.strip("│ ").split()[0] for line in screen if line.startswith("│") and line[2] != " "]
    assert rules == ["unsupported", "coverage-nodes", "coverage-bytes", "new-operators"]


def test_a_waiver_lets_it_pass_until_its_date(
    m4c: Shell, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(model, *WORSE)
    waivers = waived(model.parent)
    on(monkeypatch, "2027-01-31")
    done = gate(m4c, model, "--waivers", waivers)
    assert (done.code, done.err) == (0, "")
    assert "passed, 1 waived" in done.out
    assert "waived until 2027-01-31 by anna@example.org: m: #2 GELU (t3)" in done.out
    assert "ends on 2027-01-31, in 0 days" in done.out
    on(monkeypatch, "2027-02-01")
    done = gate(m4c, model, "--waivers", waivers)
    assert done.code == 4
    assert "anna@example.org: until the next release of the head) expired on 2027-01-31" in done.err


def test_a_waived_node_counts_as_if_it_ran(m4c: Shell, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain(model, *WORSE, CODES.FLOOR)
    on(monkeypatch, "2027-01-01")
    limits = ("--min-coverage", 80, "--max-partitions", 1)
    done = gate(m4c, model, "--waivers", waived(model.parent), *limits, "--json")
    found = json.loads(done.out)
    failed = {one["rule"]: one for one in found["findings"] if one["waiver"] is None}
    # 5 of 6 nodes run: all but the new one at the end, which no waiver names. Without one it would be 2.
    assert set(failed) == {"unsupported", "coverage-nodes", "coverage-bytes", "new-operators"}
    assert failed["coverage-nodes"]["text"].startswith("83.33 % (5 of 6) of the nodes")
    assert (failed["unsupported"]["node"]["index"], failed["unsupported"]["node"]["operator"]) == (5, "FLOOR")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GELU_WAIVER.replace("owner", "who"), "unknown key 'who'"),
        (GELU_WAIVER.replace('reason = "until the next release of the head"\n', ""), "it misses reason"),
        (GELU_WAIVER.replace("2027-01-31", '"2027-01-31"'), "expires is '2027-01-31', no date"),
        (GELU_WAIVER.replace('"unsupported"', '"all"'), "there is no rule 'all'"),
        (GELU_WAIVER.replace('"anna@example.org"', '""'), "owner is '', no text"),
        ("[waivers]\n", "waivers is unknown"),
        ("rule = ", "the waivers are no TOML"),
    ],
)
def test_waivers_are_read_strictly(m4c: Shell, model: Path, text: str, message: str) -> None:
    done = gate(m4c, model, "--waivers", waived(model.parent, text))
    assert done.code == 2
    assert message in done.err
    assert "fix:" in done.err


def test_an_unused_waiver_is_told_and_those_of_other_targets_are_not(
    m4c: Shell, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "2026-12-01")
    done = gate(
        m4c, model, "--waivers", waived(model.parent, GELU_WAIVER + GELU_WAIVER.replace("edgetpu", "gpu"))
    )
    assert done.code == 0
    assert done.out.count("is not used: remove it") == 1


def test_a_gate_that_cannot_fail_is_an_error(m4c: Shell, model: Path) -> None:
    for arguments, message in (
        ([], "it would pass whatever happens"),
        (["--max-error", 1], "m.tflite has none"),
        (["--max-new-operators", 1], "none is given"),
        (["--update-baseline"], "none is named"),
        (["--baseline", model.parent / "none"], "there is no baseline of m.tflite on edgetpu"),
    ):
        done = m4c("gate", model, "--target", "edgetpu", *arguments)
        assert (done.code, message in done.err, "fix:" in done.err) == (2, True, True), done.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"target": "edgetpu"', '"target": "gpu"', "is of the target gpu"),
        ('"subject": "m.tflite"', '"subject": "other"', "is of the subject other"),
        ('"schema": 1', '"schema": 2', "the baseline has schema 2, this m4c reads 1"),
        ('"evidence": "table"', '"evidence": "compiled"', "the baseline's evidence is compiled"),
        ('"partitions": 1', '"partitions": "1"', "the baseline is damaged: graphs.m.partitions"),
        ('"partitions": 1', '"parts": 1', "the baseline is damaged: graphs.m.parts is unknown"),
    ],
)
def test_a_baseline_of_something_else_is_an_error(
    m4c: Shell, model: Path, old: str, new: str, message: str
) -> None:
    (path,) = (model.parent / "baseline").iterdir()
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")
    done = gate(m4c, model)
    assert done.code == 2
    assert message in done.err


def test_an_updated_baseline_is_held_from_then_on(m4c: Shell, model: Path) -> None:
    chain(model, *WORSE)
    done = gate(m4c, model, "--update-baseline")
    assert done.code == 0
    assert "100 % (4 of 4)" in done.out  # what is accepted is shown
    assert gate(m4c, model).code == 0
    chain(model, *GOOD)
    done = gate(m4c, model)
    assert done.code == 0
    assert "better than the baseline in 2; --update-baseline keeps that" in done.out


def test_limits_hold_without_a_baseline_and_beside_an_update(m4c: Shell, model: Path) -> None:
    chain(model, *WORSE)
    asked = ["gate", model, "--target", "edgetpu"]
    done = m4c(*asked, "--min-coverage", 95)
    assert done.code == 4
    assert "40 % (2 of 5) of the nodes run on the target, 95 % are asked for; GELU is not among" in done.err
    assert m4c(*asked, "--min-coverage", 40, "--min-coverage-bytes", 40, "--min-coverage-macs", 100).code == 0
    assert m4c(*asked, "--max-op-types", 4).code == 0
    assert "4 tflite operator types, 3 allowed" in m4c(*asked, "--max-op-types", 3).err
    assert m4c(*asked, "--max-partitions", 1).code == 0
    assert "1 partition, 0 allowed" in m4c(*asked, "--max-partitions", 0).err
    assert m4c(*asked, "--max-size", "1kB").code == 0
    assert f"{model.stat().st_size} bytes, 500 allowed" in m4c(*asked, "--max-size", "500B").err
    assert gate(m4c, model, "--update-baseline", "--min-coverage", 95).code == 4
    assert gate(m4c, model).code == 0  # it was written all the same


def test_new_operators_are_allowed_by_number(m4c: Shell, model: Path) -> None:
    chain(model, *GOOD, CODES.RELU6)
    assert gate(m4c, model).code == 4
    assert gate(m4c, model, "--max-new-operators", 1).code == 0
    chain(model, *GOOD, CODES.RELU6, CODES.SQUEEZE)
    done = gate(m4c, model, "--max-new-operators", 1)
    assert "RELU6 is an operator type that the baseline has nowhere; 2 are new, 1 allowed" in done.err


def test_a_bundle_is_held_by_its_errors_and_sizes(m4c: Shell, int8_bundle: Path, copied: Copy) -> None:
    bundle = copied(int8_bundle)
    asked = ["gate", bundle, "--target", "edgetpu", "--baseline", bundle.parent / "baseline"]
    assert m4c(*asked, "--update-baseline").code == 0
    assert m4c(*asked, "--min-sqnr", 10, "--max-error", 0.9, "--min-coverage", 100).code == 0
    done = m4c(*asked, "--min-sqnr", 90)
    assert done.code == 4
    assert "dB, 90 asked for" in done.err
    held = read(bundle.parent / "baseline", "copy", "edgetpu")
    (graph,) = held.graphs.values()
    assert graph.sqnr_db is not None
    record = json.loads((bundle / "manifest.json").read_text("utf-8"))["submodels"][0]["graphs"][0]
    assert (graph.size, graph.error) == (
        record["file"]["bytes"],
        float(f"{record['verification']['max_relative_error']:.3g}"),
    )
    found = record["verification"]["sqnr_db"]
    edit_manifest(bundle, f'"sqnr_db": {found}', f'"sqnr_db": {found - 0.4}')
    assert m4c(*asked).code == 0
    edit_manifest(bundle, f'"sqnr_db": {found - 0.4}', f'"sqnr_db": {found - 1}')
    done = m4c(*asked)
    assert done.code == 4
    assert f"{graph.sqnr_db:g} in the baseline" in done.err


def outcome(path: Path, before: Figures | None, limits: Limits | None = None, **more: Any) -> Any:
    target = load_target("edgetpu")
    found = [place(graph, target) for graph in read_tflite(path)]
    figures = of_judged("m", "edgetpu", found)
    return check(found, figures, target, limits or Limits(), before, (), date(2026, 1, 1), **more)


def test_graphs_that_come_and_go_are_found(tmp_path: Path) -> None:
    target = load_target("edgetpu")
    path = chain(tmp_path / "m.tflite", *GOOD)
    found = [place(graph, target) for graph in read_tflite(path)]
    now = of_judged("p", "edgetpu", found)
    (name,) = now.graphs
    other = dataclasses.replace(now, graphs={"a/other": now.graphs[name], "b/rest": now.graphs[name]})

    def findings(scope: tuple[str, ...]) -> list[tuple[str, str]]:
        made = check(found, now, target, Limits(), other, (), date(2026, 1, 1), scope)
        return [(one.rule, one.graph) for one in made.failures]

    assert findings(()) == [("graphs", name), ("graphs", "a/other"), ("graphs", "b/rest")]
    assert findings((name, "a")) == [("graphs", name), ("graphs", "a/other")]  # of a part, a part is asked


def test_a_graph_that_has_no_form_any_more_fails(tmp_path: Path) -> None:
    target = load_target("edgetpu")
    path = chain(tmp_path / "m.tflite", *GOOD)
    before = of_judged("p", "edgetpu", [place(graph, target) for graph in read_tflite(path)])
    (name,) = before.graphs
    lost = [NotConverted(name, "no emit function for Einsum", "add one")]
    now = of_judged("p", "edgetpu", lost)
    made = check(lost, now, target, Limits(), before, (), date(2026, 1, 1))
    (one,) = made.failures
    assert (one.rule, one.fix) == ("conversion", "add one")
    assert "no emit function for Einsum" in one.message
    assert check(lost, now, target, Limits(), now, (), date(2026, 1, 1)).failures == ()
    assert check(lost, now, target, Limits(min_coverage=1), None, (), date(2026, 1, 1)).failures
    hosts = [NotConverted(name, "rows are looked up", "nothing", by_host=True)]
    assert not check(hosts, now, target, Limits(min_coverage=1), None, (), date(2026, 1, 1)).failures


def test_less_work_on_the_target_is_not_worse_where_no_more_is_off_it(tmp_path: Path) -> None:
    before = of_judged(
        "m",
        "edgetpu",
        [place(g, load_target("edgetpu")) for g in read_tflite(chain(tmp_path / "m.tflite", *WORSE))],
    )
    shorter = chain(tmp_path / "m.tflite", CODES.RELU, CODES.GELU, CODES.LOGISTIC, CODES.RELU)
    assert outcome(shorter, before).failures == ()  # 1 of 4 is less than 2 of 5; three stay off as before


def test_junit_and_sarif_and_markdown_say_the_same(
    m4c: Shell, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    on(monkeypatch, "2027-01-01")
    chain(model, *WORSE, CODES.FLOOR)
    done = m4c(
        *("gate", "m.tflite", "--target", "edgetpu", "--baseline", "baseline", "--waivers", waived(Path())),
        *("--junit", "j.xml", "--sarif", "s.json", "--markdown", "m.md", "--json"),
    )
    found = json.loads(done.out)
    failed = [one for one in found["findings"] if one["waiver"] is None]
    assert failed
    assert len(found["findings"]) == len(failed) + 1
    suite = ElementTree.parse("j.xml").getroot()[0]
    assert [suite.get("tests"), suite.get("failures")] == [
        str(len(suite)),
        str(len({(one["graph"], one["rule"]) for one in failed})),
    ]
    assert len(suite) == len(found["checked"])
    assert {case.get("name") for case in suite if case.find("failure") is not None} == {
        one["rule"] for one in failed
    }
    log = json.loads(Path("s.json").read_text("utf-8"))
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(RULES)
    assert [one["ruleId"] for one in run["results"]] == [one["rule"] for one in found["findings"]]
    assert [bool(one.get("suppressions")) for one in run["results"]] == [
        one["waiver"] is not None for one in found["findings"]
    ]
    place_ = run["results"][0]["locations"][0]
    assert place_["physicalLocation"]["artifactLocation"]["uri"] == "m.tflite"
    assert place_["logicalLocations"][0]["fullyQualifiedName"].startswith("edgetpu/m/t")
    prints = [one["partialFingerprints"]["m4c/v1"] for one in run["results"]]
    assert len(set(prints)) == len(prints)
    page = Path("m.md").read_text("utf-8")
    assert page.count("| `") == len(failed)
    assert "<details><summary>Waived: 1</summary>" in page


def test_markdown_fits_a_comment_whatever_was_found(tmp_path: Path) -> None:
    before = of_judged(
        "m",
        "edgetpu",
        [place(g, load_target("edgetpu")) for g in read_tflite(chain(tmp_path / "m.tflite", *GOOD))],
    )
    made = outcome(chain(tmp_path / "m.tflite", *WORSE), before)
    many = dataclasses.replace(made, findings=made.findings * 500)
    page = render.to_markdown(many)
    assert len(page) <= render.COMMENT
    assert "#2 GELU (t3)" in page
    assert "more" in page
    assert len(render.to_markdown(made, 300)) <= 300


def test_a_baseline_is_the_same_text_each_time_and_reads_back(tmp_path: Path) -> None:
    target = load_target("edgetpu")
    figures = of_judged(
        "m", "edgetpu", [place(g, target) for g in read_tflite(chain(tmp_path / "m.tflite", *WORSE))]
    )
    text = to_text(figures)
    assert to_text(from_text(text, "here")) == text
    assert '"nodes": {"all": 5, "on": 2}' in text
    assert '"GELU": {\n     "t3": 1\n    }' in text


def test_a_share_is_never_rounded_to_all() -> None:
    assert str(Share(100000, 99999)) == "99.99 % (99999 of 100000)"
    assert str(Share(3, 3)) == "100 % (3 of 3)"
    assert Share(0, 0).percent == 100
