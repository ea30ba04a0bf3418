"""The least time of routes: the calls that each makes, and sums of what each graph takes."""

import json
import math
import sys

import pytest

from m4c import cli
from m4c.errors import UsageError
from m4c.models import SUBMODELS
from m4c.operator_reports import latency, render_latency
from m4c.operator_reports.captured import of_submodel
from m4c.operator_reports.latency import PROMPT, Call, Route, Sum, Timed, route_of, timed, with_figures
from m4c.operator_reports.placement import Placement
from m4c.progress import Silent
from m4c.targets.profile import load_target
from m4c.tasks import TASKS
from tests.operator_reports.schema import published

WRITTEN = (Call("backbone/embed", PROMPT), Call("backbone/decoder", PROMPT))
NEXT = (Call("backbone/embed"), Call("backbone/decoder"))


def test_routes_make_the_calls_of_the_tasks() -> None:
    assert route_of(TASKS["T1"]) == Route(WRITTEN, NEXT, "token")
    assert route_of(TASKS["T44"]).first == (Call("img_enc/encoder"), Call("projection/linear"), *WRITTEN)
    assert route_of(TASKS["T22"]) == Route((Call("img_enc/encoder"),), (Call("txt_enc/encoder"),), "label")
    spoken = route_of(TASKS["T41"])
    assert [call.graph for call in spoken.first] == list(TASKS["T41"].graphs)
    assert spoken.each == (Call("tts_dec/decoder"),)
    drawn = route_of(TASKS["T48"])
    assert drawn.each == (Call("img_dec/unet", times=2),)
    assert drawn.first[-1] == Call("img_dec/vae_decoder")
    for task in TASKS.values():
        assert route_of(task).unit in latency.FURTHER
        assert {call.graph.partition("/")[0] for call in route_of(task).first} <= set(SUBMODELS)


def test_an_answer_is_the_first_step_and_the_further_ones() -> None:
    route = Route(WRITTEN, NEXT, "token")
    one = Timed(("T1",), 3, route, Sum(2.0, 50, 100, ()), Sum(0.5, 10, 10, ("backbone/embed",)))
    assert one.seconds == 2.0 + 31 * 0.5
    assert one.share == (50 + 310) / (100 + 310)
    target = load_target("edgetpu")
    text = render_latency.to_markdown([one], target)
    assert "| T1 | 3 | 2 | token | 0.5 | 31 | 17.5 | 88% | backbone/embed |" in text
    assert "a lower bound" in text
    assert render_latency.to_table([one], target).row_count == 1


def test_times_are_those_of_the_graphs_at_the_sizes_of_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {name: TASKS[name] for name in ("T1", "T38")}
    monkeypatch.setattr(latency, "TASKS", tasks)
    target = load_target("ethos-u85")
    moved, written = timed((target,), "m4-nano", Silent(), 1)[target.name]
    assert (moved.tasks, written.tasks) == (("T38",), ("T1",))
    (graph,) = of_submodel(("imu_enc",), "m4-nano", (target,), "imu_enc", Silent())[target.name]
    assert isinstance(graph, Placement)
    assert (moved.first.seconds, moved.first.macs) == (graph.seconds, graph.whole.macs)
    assert moved.seconds == graph.seconds  # labels are read once and kept
    assert moved.each.seconds > 0
    assert written.each.outside == ("backbone/embed",)  # looked up by the host
    assert written.first.macs > 30 * written.each.macs  # a prompt is read at once, as many rows
    assert 0 < written.each.seconds <= written.first.seconds < PROMPT * written.each.seconds
    made = render_latency.to_json({target.name: (moved, written)}, (target,), "m4-nano")
    printed = json.loads(json.dumps(made))
    published().validate(printed)
    (on,) = printed["targets"]
    assert math.isclose(on["routes"][1]["seconds"], written.seconds)


def test_only_targets_with_figures_have_times() -> None:
    every = with_figures(("all",))
    assert {"edgetpu", "ethos-u55", "qualcomm-htp"} <= {target.name for target in every}
    assert all(target.figures for target in every)
    with pytest.raises(UsageError, match="it is not known how fast xnnpack is"):
        with_figures(("edgetpu", "xnnpack"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["routes"], "a time is that of a target"),
        (["routes", "--target", "cpu"], "it is not known how fast cpu is"),
        (["routes", "--target", "edgetpu", "--measure"], "--measure and --figure are for zoo and scaling"),
        (["routes", "--target", "edgetpu", "--format", "html"], "routes has no page of its own"),
    ],
)
def test_mistakes_end_in_a_message(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["m4c", "report", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
