"""Tasks and the graphs they need."""

import pytest

from m4c.errors import UsageError
from m4c.models import SUBMODELS
from m4c.tasks import TASKS, graphs_of, require_task, routes


def test_tasks_need_graphs_of_submodels() -> None:
    for task in TASKS.values():
        assert {graph.partition("/")[0] for graph in (*task.graphs, *task.genai)} <= set(SUBMODELS)


def test_a_route_is_there_if_all_its_graphs_are() -> None:
    speech = TASKS["T32"].graphs
    assert routes({*speech, "gen_dec/head"}) == {"T32": TASKS["T32"].by(speech)}
    assert routes(set(speech[1:])) == {}


def test_a_bundle_for_onnxruntime_genai_has_a_route_of_its_own() -> None:
    words = TASKS["T1"]
    written = ("T1", "T2", "T4", "T7")
    whole, parts = ("backbone/model",), ("backbone/embed", "backbone/decoder")
    assert routes({*words.genai, "gen_dec/head"}) == {name: TASKS[name].by(whole) for name in written}
    assert routes({*words.graphs}) == {name: TASKS[name].by(parts) for name in written}


def test_paths_and_options_are_those_of_the_graphs() -> None:
    for task in TASKS.values():
        submodels = {graph.partition("/")[0] for graph in task.graphs}
        match task.path:
            case 1:
                assert submodels == {"aud_i_enc"} or submodels >= {"projection", "backbone"}
            case 2:
                assert "txt_enc" in submodels
                assert "{label}" in task.prompt
            case 3:
                assert submodels == {"backbone"}
            case _:
                assert len(submodels) == 1
        assert (task.media is not None) == ("projection" in submodels or "txt_enc" in submodels)
        assert ("out" in task.options) == (task.path == 4)


def test_unknown_tasks_are_refused() -> None:
    assert require_task("T32").title == "speech recognition"
    known = r"T1 \(input word prediction\), .*T32 \(speech recognition\)"
    with pytest.raises(UsageError, match=rf"runs no task 'T99'\n  fix: it runs: {known}"):
        require_task("T99")


def test_graphs_of_tasks_are_named_once_in_their_order() -> None:
    assert graphs_of(("T22", "T46")) == ("img_enc/encoder", "txt_enc/encoder")
    assert graphs_of(("T7", "T22")) == ("backbone/embed", "backbone/decoder", *TASKS["T22"].graphs)
    assert graphs_of(("T7",), "genai") == ("backbone/model",)
    with pytest.raises(UsageError, match="runs no task 'T99'"):
        graphs_of(("T22", "T99"))
