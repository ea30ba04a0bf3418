"""A graph of fixed sizes behind the interface of one whose cache grows."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m4c.bundle import FileRecord, GraphRecord, PortRecord, SignatureRecord, VerificationRecord
from m4c.errors import UsageError
from m4c.host.masks import HIDDEN, causal_mask, positions
from m4c.static_cache import StaticSteps, empty_cache, most_steps

Array = np.ndarray


def record(past: int, sequence: int) -> GraphRecord:
    """Return the record of a decoder of these sizes."""
    shapes = {
        "x": (1, sequence, 1),
        "positions": (1, sequence),
        "mask": (1, 1, sequence, past + sequence),
        "past_key_0": (1, 1, past, 1),
    }
    return GraphRecord(
        "a/decoder", FileRecord("f", 0, ""), "tflite", "float32", "cpu", None, "",
        tuple(PortRecord(n, "float32", s, "") for n, s in shapes.items()), (), {},
        VerificationRecord("", "", 0, 0, None, ""), None, FileRecord("v", 0, ""),
        sizes={"batch": 1, "past": past, "sequence": sequence},
    )  # fmt: skip


class Sums:
    """A decoder whose score is the sum of the steps that it may see, itself included."""

    def __init__(self, graph: GraphRecord) -> None:
        self.graph = graph

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Check the shapes, and add up."""
        for port in self.graph.inputs:
            assert inputs[port.name].shape == port.shape, port.name
        grown = np.concatenate([inputs["past_key_0"], inputs["x"][:, None]], axis=2)
        seen = np.where(inputs["mask"][0, 0] == HIDDEN, 0.0, 1.0)
        return {"sum": seen @ grown[0, 0] @ np.ones((1, 1)) * np.ones((1, 1, 1)), "present_key_0": grown}


@given(
    past=st.integers(2, 9),
    sequence=st.integers(1, 4),
    calls=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_calls_of_any_number_of_steps(past: int, sequence: int, calls: list[int]) -> None:
    graph = record(past, sequence)
    runner, cache, done = StaticSteps([Sums(graph)], graph.signatures), empty_cache(graph), 0
    for count in calls:
        steps = np.arange(done + 1, done + count + 1, dtype=np.float32)
        feeds = {
            "x": steps[None, :, None],
            "positions": positions(count, done),
            "mask": causal_mask(count, done),
        }
        if done + (count - 1) // sequence * sequence > past:
            with pytest.raises(UsageError, match=f"the cache has room for {past} steps"):
                runner.run({**feeds, **cache})
            return
        made = runner.run({**feeds, **cache})
        done += count
        cache = {"past_key_0": made["present_key_0"]}
        np.testing.assert_array_equal(made["sum"][0, :, 0], steps * (steps + 1) / 2)
        np.testing.assert_array_equal(cache["past_key_0"][0, 0, :, 0], np.arange(1, done + 1))


class Counted(Sums):
    """The same, which counts its calls."""

    calls = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Count, and add up."""
        self.calls += 1
        return super().run(inputs)


@pytest.mark.parametrize(
    ("steps", "calls"), [(1, (1, 0, 0)), (2, (0, 1, 0)), (4, (0, 1, 0)), (9, (0, 0, 1)), (25, (1, 0, 2))]
)
def test_a_prompt_takes_the_signature_that_has_room_for_it(steps: int, calls: tuple[int, ...]) -> None:
    one, *others = (record(30, sequence) for sequence in (1, 4, 12))
    further = {
        str(o.sizes["sequence"]): SignatureRecord(o.inputs, (), {}, o.verification, o.vector, o.sizes)
        for o in others
    }
    graph = replace(one, further=further)
    assert [view.inputs for view in graph.signatures] == [one.inputs, *(o.inputs for o in others)]
    runners = [Counted(view) for view in graph.signatures]
    values = np.arange(1, steps + 1, dtype=np.float32)
    feeds = {"x": values[None, :, None], "positions": positions(steps, 0), "mask": causal_mask(steps, 0)}
    made = StaticSteps(runners, graph.signatures).run({**feeds, **empty_cache(graph)})
    np.testing.assert_array_equal(made["sum"][0, :, 0], values * (values + 1) / 2)
    np.testing.assert_array_equal(made["present_key_0"][0, 0, :, 0], values)
    assert tuple(runner.calls for runner in runners) == calls


def test_how_many_steps_there_is_room_for() -> None:
    assert most_steps(record(7, 2), 99) == 8
    assert most_steps(record(7, 2), 5) == 5
