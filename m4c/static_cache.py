"""A decoder of fixed sizes behind the interface of one whose cache grows: what a runner on a device does, in numpy.

A cache of ``past`` rows that holds fewer steps is filled up, and the mask hides the rest. A call of fewer steps than
``sequence`` is filled up too, one of more becomes several; a file may have a signature for one step and another for many. Each
call returns the cache it was given with its own steps after it: these alone are new, rows ``past`` … ``past + steps`` of every
``present``. Keys are turned by position already, so their order is free.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from m4c.bundle import GraphRecord
from m4c.errors import UsageError
from m4c.host.masks import HIDDEN
from m4c.runners import Runner, open_runners

Array = np.ndarray
Arrays = dict[str, Array]

STEPS_AXIS = 2
"""Of caches, (batch, heads, steps, head_dim)."""


class Stepped(Protocol):
    """A graph whose steps are counted, of a bundle or before it is compiled."""

    @property
    def name(self) -> str:
        """``<submodel>/<graph>``."""

    @property
    def inputs(self) -> "Sequence[Shaped]":
        """Its inputs."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The dimensions that have names in the model and are numbers here."""


class Shaped(Protocol):
    """What is to be known of an input."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """What it takes."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Numbers, and names of what changes from call to call."""


def open_decoder(folder: Path, graph: GraphRecord, adapter: Path | None = None) -> Runner:
    """Open a graph of the bundle at ``folder``, to be run with any number of steps, and caches up to its own.

    ``adapter`` is the file of the adapter that it runs with.
    """
    runners = open_runners(folder / graph.file.path, [one.signature for one in graph.signatures], adapter)
    return StaticSteps(runners, graph.signatures) if "sequence" in graph.sizes else runners[0]


def empty_cache(graph: Stepped) -> Arrays:
    """Return the inputs of ``graph`` that hold its cache, without any steps."""
    pasts = [port for port in graph.inputs if port.name.startswith("past_")]
    sizes: dict[int | str, int] = {"batch": 1, "past": 0}
    found = {p.name: [int(sizes.get(d, d)) for d in p.shape] for p in pasts}
    for shape in found.values():
        shape[STEPS_AXIS] = 0
    return {p.name: np.zeros(found[p.name], np.dtype(p.dtype)) for p in pasts}


def most_steps(graph: Stepped, known: int) -> int:
    """Return how many steps ``graph`` has room for, of those that its model knows."""
    return min(known, graph.sizes["past"] + 1) if "past" in graph.sizes else known


class StaticSteps:
    """A runner of a graph that takes any number of steps, and takes and gives caches of any length.

    Of several signatures, each call takes the one of fewest steps that has room for all that are left, or the longest.
    """

    def __init__(self, runners: Sequence[Runner], signatures: Sequence[Stepped]) -> None:
        """Wrap ``runners``, each of which takes the sizes of one of the ``signatures`` of a graph alone."""
        pairs = zip(signatures, runners, strict=True)
        self._runners = dict(sorted((one.sizes["sequence"], runner) for one, runner in pairs))
        self.past = signatures[0].sizes.get("past", 0)
        self._caches = [port.name for port in signatures[0].inputs if port.name.startswith("past_")]
        self._stepwise = [
            port.name
            for port, *others in zip(*(one.inputs for one in signatures), strict=True)
            if len(port.shape) in (2, 3)
            and [p.shape[1] for p in (port, *others)] == [one.sizes["sequence"] for one in signatures]
        ]

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Return all outputs for the steps of ``inputs``, whose caches may be shorter than the graph's.

        Raises:
            UsageError: if the cache has no room for the steps.
        """
        caches = {name: inputs[name] for name in self._caches}
        count, made, done = inputs[self._stepwise[0]].shape[1], list[Arrays](), 0
        while done < count:
            sequence = next((s for s in self._runners if s >= count - done), max(self._runners))
            steps = slice(done, min(done + sequence, count))
            outputs = self._call(sequence, inputs, caches, steps)
            done = steps.stop
            caches = {n: outputs.pop(n.replace("past", "present", 1)) for n in caches}
            made.append(outputs)
        joined = {name: np.concatenate([outputs[name] for outputs in made], axis=1) for name in made[0]}
        return joined | {name.replace("past", "present", 1): cache for name, cache in caches.items()}

    def _call(self, sequence: int, inputs: Mapping[str, Array], caches: Arrays, steps: slice) -> Arrays:
        """Run the signature of ``sequence`` steps once, for some steps of ``inputs``."""
        count = steps.stop - steps.start
        done = next((cache.shape[STEPS_AXIS] for cache in caches.values()), 0)
        if done > self.past:
            raise UsageError(
                f"the cache has room for {self.past} steps, there are {done}",
                fix=f"export with a larger --size past={done}",
            )
        feeds = {name: _filled(inputs[name][:, steps], 1, sequence) for name in self._stepwise}
        feeds |= {name: _filled(cache, STEPS_AXIS, self.past) for name, cache in caches.items()}
        if caches:
            seen = inputs["mask"][:, :, steps]
            mask = np.full((len(seen), 1, sequence, self.past + sequence), HIDDEN, np.float32)
            mask[:, :, :count, :done] = seen[..., :done]
            mask[:, :, :count, self.past : self.past + count] = seen[..., done : done + count]
            feeds["mask"] = mask
        outputs = self._runners[sequence].run({**inputs, **feeds})
        for name, value in outputs.items():
            if name.startswith("present_"):
                new = value[:, :, self.past : self.past + count]
                before = caches[name.replace("present", "past", 1)]
                outputs[name] = np.concatenate([before, new], axis=STEPS_AXIS)
            else:
                outputs[name] = value[:, :count]
        return outputs


def _filled(values: Array, axis: int, count: int) -> Array:
    """Return ``values`` with zeros after them, so that ``axis`` has ``count`` entries."""
    missing = [(0, count - values.shape[axis] if d == axis else 0) for d in range(values.ndim)]
    return np.pad(values, missing)
