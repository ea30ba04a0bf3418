"""What a sub-model is to the compiler: graphs with named, typed, explained inputs and outputs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from m4c.errors import UsageError
from m4c.static_cache import Stepped

Sizes = Mapping[str, int]
FromTokens = Callable[
    [tuple["Port", ...], Mapping[str, ir.TensorProtocol], np.ndarray], dict[str, np.ndarray]
]
Sample = Callable[[np.random.Generator, Sizes], dict[str, np.ndarray]]
Arrays = Mapping[str, np.ndarray]
Run = Callable[[str, Arrays], dict[str, np.ndarray]]
"""Runs a graph of a sub-model, by its name, on inputs whose caches and steps are as many as they are."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    ``shape`` holds numbers and names of dimensions; a name may be a sum of names, such as ``past + sequence``.
    ``meaning`` is one line for the people who feed or read it, with units. ``host`` tells the host-side preparation of an
    input or the use of an output, as plain data that the manifest carries (``{"kind": "log-mel", "sample_rate": 16000}``).
    ``whole`` is the smallest and the largest of the whole numbers that a float input holds, where an integer artifact may
    round it to one.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    host: Mapping[str, object] = field(default_factory=dict)
    whole: tuple[int, int] | None = None

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape with every named dimension replaced by its size."""
        return tuple(
            d if isinstance(d, int) else sum(int(t) if t.isdigit() else sizes[t] for t in d.split(" + "))
            for d in self.shape
        )


class GraphModule(nn.Module):
    """Base of every captured module: its one child ``source`` holds all weights, under their checkpoint names.

    A weight is read by the ``forward`` of the module that owns it: that is when it is loaded (:mod:`m4c.eager`).
    """

    source: Any

    def __init__(self, source: nn.Module) -> None:
        """Keep the sub-model's module as ``source``."""
        super().__init__()
        self.source = source


@dataclass(frozen=True)
class Repetition:
    """What a deep graph is made of: modules ``prefix.0``, ``prefix.1`` … of its source, ``count`` of them, all equal.

    Each reads what the one before made, what was made before all of them, and inputs and weights with its own number.
    ``shortened`` makes the same graph with fewer of them, its weights fake. Capture needs no more (:mod:`m4c.repeat`).
    """

    prefix: str
    count: int
    shortened: Callable[[int], "Graph"]


@dataclass(frozen=True)
class Graph:
    """One graph of a sub-model, ready to be captured.

    ``module(*inputs)`` takes the inputs in order and returns the outputs in order, as a tuple if there are several.
    ``sizes`` gives each named dimension its size when it is static. ``dynamic`` names the dimensions that are dynamic in
    every capture (a cache grows), unless the format wants numbers: then ``static`` has their sizes, which the user may
    change, and ``max_steps`` is the most that ``past`` and ``sequence`` may be together. ``sample`` makes sensible inputs
    for given sizes. ``repeats`` tells the equal blocks of a deep module. ``dialect`` is the only ONNX dialect that the
    graph is made for. ``from_tokens`` makes inputs of token ids (batch, sequence), for calibration on text.
    """

    name: str
    module: GraphModule
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sample: Sample
    sizes: Sizes = field(default_factory=lambda: {"batch": 1})
    dynamic: frozenset[str] = frozenset()
    static: Sizes = field(default_factory=dict)
    max_steps: int | None = None
    repeats: Repetition | None = None
    dialect: str = ""
    from_tokens: FromTokens | None = None

    @property
    def submodel(self) -> str:
        """The sub-model that this graph belongs to: the part of the name before the slash."""
        return self.name.split("/")[0]

    @property
    def dimensions(self) -> frozenset[str]:
        """The names of all dimensions of the inputs."""
        names = (d for port in self.inputs for d in port.shape if isinstance(d, str))
        return frozenset(term for name in names for term in name.split(" + ") if not term.isdigit())

    def sized(self, sizes: Sizes) -> "Graph":
        """Return this graph with ``sizes`` for those of its dimensions that are named there; these are dynamic no more.

        Raises:
            UsageError: if a size is none, or more steps are asked for than the model knows.
        """
        own = {name: size for name, size in sizes.items() if name in self.dimensions}
        made = {**self.sizes, **own}
        for name, size in own.items():
            if size < (0 if name == "past" else 1):
                raise UsageError(
                    f"{name} cannot be {size}", where=self.name, fix=f"give --size {name}=1 or more"
                )
        steps = made.get("past", 0) + made.get("sequence", 0)
        if own and self.max_steps is not None and steps > self.max_steps:
            sequence = min(made["sequence"], self.max_steps)
            raise UsageError(
                f"past and sequence are {steps} steps together, the model knows {self.max_steps}",
                where=self.name,
                fix=f"give sizes of up to {self.max_steps} steps, such as --size past={self.max_steps - sequence} "
                f"--size sequence={sequence}",
            )
        return replace(self, sizes=made, dynamic=self.dynamic - own.keys())


@dataclass(frozen=True)
class Route:
    """How graphs of a sub-model follow one another at run time; what one takes is made by those before it.

    ``graphs`` are in the order in which they run. ``follow(run, first, facts, last)`` runs them as a route does, from the
    inputs ``first`` of the first graph up to those calls that the graph ``last`` gets for them, and yields after each of
    these. ``facts`` are what the host knows beside the ports: tokens that are never chosen, say.
    """

    graphs: tuple[str, ...]
    follow: Callable[[Run, Arrays, Mapping[str, object], Stepped], Iterator[None]]


@dataclass(frozen=True)
class Submodel:
    """A sub-model of M4 in one preset: its torch module, its graphs, and how checkpoints name its weights.

    ``renames`` are (regular expression, replacement) pairs that turn a key of a published checkpoint into a key of
    ``source``; ``ignored`` is a regular expression of checkpoint keys that M4 has no use for. ``tied`` maps a key of
    ``source`` to the key that stores the same weight, as checkpoints hold only one of them.
    ``assets`` are files beside the weights that the bundle carries for the host, such as a tokenizer; ``host`` reads, from
    the folder of the weights, facts that the host needs and the manifest carries, such as tokens never to choose.
    ``route`` tells what graphs take that no file of a user holds: the values that others give.
    """

    name: str
    source: nn.Module
    graphs: tuple[Graph, ...]
    licence: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: str = ""
    tied: Mapping[str, str] = field(default_factory=dict)
    assets: tuple[str, ...] = ()
    host: Callable[[Path], dict[str, object]] | None = None
    route: Route | None = None

    def facts(self, weights: Path | None) -> dict[str, object]:
        """Return what the host needs to know beside the ports, from the folder of the ``weights`` if there is one."""
        return self.host(weights) if self.host and weights is not None and weights.is_dir() else {}

    def graphs_for(self, dialect: str = "") -> "tuple[Graph, ...]":
        """Return the graphs to be exported in ``dialect``: those made for it, or, where there are none, those made for any."""
        special = tuple(graph for graph in self.graphs if graph.dialect == dialect)
        return special or tuple(graph for graph in self.graphs if not graph.dialect)
