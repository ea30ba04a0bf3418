"""What a compile starts from: a graph of an M4 sub-model with its weights, or an ONNX file.

Both can be captured to a model, make inputs for themselves, and compute the outputs that artifacts are held against.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from m4c.errors import UnsupportedError, UsageError
from m4c.models.graph import Port, Route
from m4c.onnx_file import read_proto
from m4c.quiet import quiet

Array = np.ndarray
ONNX = "give a model that onnx.checker accepts"
Recorder = Callable[[str, Array], None]
"""Called with the name and value of everything that is computed on the way."""


class Source(Protocol):
    """A graph to be compiled."""

    @property
    def name(self) -> str:
        """``<submodel>/<graph>``."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes in."""

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out."""

    @property
    def static(self) -> Mapping[str, int]:
        """The sizes of dimensions that grow, for a format that wants numbers."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The sizes of all named dimensions that are numbers here."""

    def sized(self, sizes: Mapping[str, int]) -> "Source":
        """Return this source with these dimensions as numbers."""

    def capture(self) -> ir.Model:
        """Return the model with lazy weights, before any pass."""

    def sample(self, seed: int) -> dict[str, Array]:
        """Return random inputs that make sense."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the true outputs."""

    def weight(self, name: str) -> ir.TensorProtocol:
        """Return a weight by its name in the model."""

    def with_weights(self, changed: Mapping[str, ir.TensorProtocol]) -> "Source":
        """Return this source with other values for some weights."""

    def record(self, inputs: Mapping[str, Array], recorder: Recorder) -> None:
        """Compute the outputs and hand every value on the way to ``recorder``, under its name in the model."""

    @property
    def route(self) -> Route | None:
        """How graphs of its sub-model follow one another, if they do."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What the host knows of the sub-model beside the ports, for a route."""

    def beside(self, name: str) -> "Source":
        """Return another graph of its route, with the same numbers for the dimensions that both have."""


@dataclass(frozen=True)
class TorchSource:
    """A graph of a sub-model; truth is eager torch."""

    graph: Any
    """A :class:`m4c.models.graph.Graph`."""
    weights: Mapping[str, ir.TensorProtocol]
    dynamic: frozenset[str] = frozenset()
    submodel: Any = None
    """The :class:`m4c.models.graph.Submodel` that the graph is of, where its other graphs may be asked for."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """As :meth:`m4c.models.graph.Submodel.facts` has them."""
    unmerged: Mapping[str, ir.TensorProtocol] | None = None
    """The weights before adapters were merged, where some were."""
    adapters: tuple[Any, ...] = ()
    """The :class:`m4c.adapters.folder.Adapter` of its sub-model, merged or to stay beside the artifact."""

    @property
    def name(self) -> str:
        """The graph's name."""
        return str(self.graph.name)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The graph's inputs, with the dimensions that are not dynamic as numbers."""
        return tuple(
            _fixed(port, self.graph.sizes, self.graph.dynamic | self.dynamic) for port in self.graph.inputs
        )

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The graph's outputs, likewise."""
        return tuple(
            _fixed(port, self.graph.sizes, self.graph.dynamic | self.dynamic) for port in self.graph.outputs
        )

    @property
    def static(self) -> Mapping[str, int]:
        """What the graph says."""
        sizes: Mapping[str, int] = self.graph.static
        return sizes

    @property
    def sizes(self) -> Mapping[str, int]:
        """The sizes of the graph's dimensions that are not dynamic."""
        fixed = self.graph.dimensions - self.graph.dynamic - self.dynamic
        return {name: self.graph.sizes[name] for name in sorted(fixed)}

    def sized(self, sizes: Mapping[str, int]) -> "TorchSource":
        """Return the same graph with these dimensions as numbers, but for those that the user wants dynamic."""
        chosen = {name: size for name, size in sizes.items() if name not in self.dynamic}
        return replace(self, graph=self.graph.sized(chosen)) if chosen else self

    def capture(self) -> ir.Model:
        """Capture the module and bind the weights."""
        from m4c.capture import bind, capture

        model = capture(self.graph, self.dynamic)
        bind(model, self.weights)
        return model

    def sample(self, seed: int) -> dict[str, Array]:
        """Return the sub-model's own idea of inputs."""
        made: dict[str, Array] = self.graph.sample(np.random.default_rng(seed), self.graph.sizes)
        return made

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run eager torch, a module's weights at a time."""
        from m4c.eager import run_eager

        return run_eager(self.graph, self.weights, inputs)

    def run_variants(
        self, variants: Sequence[Mapping[str, ir.TensorProtocol]], inputs: Mapping[str, Array]
    ) -> list[dict[str, Array]]:
        """Run eager torch with each of several mappings of weights."""
        from m4c.eager import run_variants

        return run_variants(self.graph, variants, inputs)

    def weight(self, name: str) -> ir.TensorProtocol:
        """Return a weight by its name in the state dict."""
        return self.weights[name]

    def with_weights(self, changed: Mapping[str, ir.TensorProtocol]) -> "TorchSource":
        """Return the same graph with other values for some weights."""
        return replace(self, weights={**self.weights, **changed})

    def record(self, inputs: Mapping[str, Array], recorder: Recorder) -> None:
        """Run the exported program node by node."""
        from m4c.trace import trace

        trace(self.graph, self.weights, inputs, self.dynamic, recorder)

    @property
    def route(self) -> Route | None:
        """That of the sub-model."""
        return self.submodel.route if self.submodel is not None else None

    def beside(self, name: str) -> "TorchSource":
        """Return the graph of the same weights."""
        (graph,) = (graph for graph in self.submodel.graphs if graph.name == name)
        return replace(self, graph=graph.sized(self.sizes))


def _fixed(port: Port, sizes: Mapping[str, int], dynamic: frozenset[str]) -> Port:
    """Return ``port`` with every dimension that is not dynamic as a number."""
    shape = tuple(
        size
        if isinstance(size, str) and dynamic & set(size.split(" + "))
        else Port("", "", (size,), "").sized(sizes)[0]
        for size in port.shape
    )
    return replace(port, shape=shape)


@dataclass(frozen=True)
class OnnxSource:
    """An ONNX file; truth is ONNX Runtime on the file as it is. Its weights are not kept between two uses."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name twice, as sub-model and graph."""
        return f"{self.path.stem}/{self.path.stem}"

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs of the file."""
        return self._interface[0]

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The outputs of the file."""
        return self._interface[1]

    @property
    def static(self) -> Mapping[str, int]:
        """Nothing: the file does not say what its dimensions mean."""
        return {}

    @property
    def sizes(self) -> Mapping[str, int]:
        """Nothing: the dimensions of the file that have names are dynamic."""
        return {}

    def sized(self, sizes: Mapping[str, int]) -> "OnnxSource":
        """Return the file as it is: its dimensions are its own."""
        return self

    @cached_property
    def _interface(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs; small enough to keep, and to send to another process."""
        graph = self._load().graph
        return _ports(graph.inputs, self.path), _ports(graph.outputs, self.path)

    def capture(self) -> ir.Model:
        """Load the file at the opset that the passes know; external weights stay on disk.

        Raises:
            UsageError: if the file is no model, its weights are not beside it, or its opset does not convert.
        """
        from onnxscript.version_converter import convert_version

        from m4c.capture import OPSET

        model = self._load()
        _check_external(model, self.path)
        before = model.opset_imports.get("", OPSET)
        if before != OPSET:
            with quiet(
                "onnxscript.version_converter", level=logging.CRITICAL
            ):  # its failure becomes an error below
                convert_version(model, OPSET, fallback=True)
        if model.opset_imports.get("", OPSET) != OPSET:  # the converter leaves what it cannot convert
            raise UsageError(
                f"the file is of opset {before}, which does not convert to {OPSET}",
                where=str(self.path),
                fix=f"export it again at opset {OPSET}",
            )
        return model

    def sample(self, seed: int) -> dict[str, Array]:
        """Return standard normal numbers, and small integers where integers are wanted; unknown sizes are 1."""
        rng = np.random.default_rng(seed)
        made = {}
        for port in self.inputs:
            shape = tuple(size if isinstance(size, int) else 1 for size in port.shape)
            kind = np.dtype(port.dtype)
            made[port.name] = (
                rng.standard_normal(shape).astype(kind)
                if kind.kind == "f"
                else rng.integers(0, 2, shape).astype(kind)
            )
        return made

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the file in ONNX Runtime."""
        from m4c.runners import OnnxRunner

        return OnnxRunner(self.path, mapped=True).run(inputs)

    def weight(self, name: str) -> ir.TensorProtocol:
        """Return an initializer of the file, turned around: outputs first, as torch stores matrices."""
        raise UnsupportedError(
            "weights alone of an ONNX file are not quantized",
            where=self.name,
            fix="use --quantize int8, or none",
        )

    def with_weights(self, changed: Mapping[str, ir.TensorProtocol]) -> "OnnxSource":
        """Refuse: the file is run as it is."""
        raise UnsupportedError(
            "weights alone of an ONNX file are not quantized",
            where=self.name,
            fix="use --quantize int8, or none",
        )

    def record(self, inputs: Mapping[str, Array], recorder: Recorder) -> None:
        """Run the file with every value as an output."""
        from m4c.trace import onnx_values

        onnx_values(self.path, inputs, recorder)

    @property
    def route(self) -> None:
        """None: a file stands alone."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Nothing."""
        return {}

    def beside(self, name: str) -> "OnnxSource":
        """Refuse: a file stands alone."""
        raise UnsupportedError(f"{name} is no graph of this file", where=self.name)

    def _load(self) -> ir.Model:
        """Read the file; files of before 2019 list their initializers as inputs too, and here these are none."""
        read_proto(self.path)  # refuses what makes no sense
        try:
            model = ir.load(self.path)
        except Exception as error:  # protobuf's errors have no common base
            raise UsageError(f"not a readable ONNX file: {error}", where=str(self.path), fix=ONNX) from error
        if not model.graph.outputs:
            raise UsageError("not an ONNX file: it has no graph with outputs", where=str(self.path), fix=ONNX)
        for value in [v for v in model.graph.inputs if v.const_value is not None]:
            model.graph.inputs.remove(value)
        return model


def _check_external(model: ir.Model, path: Path) -> None:
    """Raise if weights that are stored outside the file are not there."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            data = Path(tensor.path)
            if not data.is_file() or data.stat().st_size < (tensor.offset or 0) + (tensor.length or 0):
                raise UsageError(
                    f"the weight {value.name} should be in {data.name}, which is missing or cut short",
                    where=str(path),
                    fix="put the data file beside the .onnx file",
                )
            if not data.resolve().is_relative_to(path.parent.resolve()) or data.stat().st_nlink > 1:
                raise UsageError(
                    f"{data.name}, which has the weight {value.name}, is a link to a file elsewhere",
                    where=str(path),
                    fix="put the file itself there, if you trust it",
                )


def _ports(values: Any, path: Path) -> tuple[Port, ...]:
    """Describe the inputs or outputs of the file at ``path``; each dimension without a name gets one of its own."""
    ports = []
    for value in values:
        if value.dtype is None or value.shape is None:
            raise UsageError(
                f"{value.name} has no dtype or shape",
                where=str(path),
                fix="run ONNX shape inference on the file first",
            )
        if value.dtype == ir.DataType.STRING:
            raise UsageError(f"{value.name} holds text, which no target takes", where=str(path))
        shape = tuple(
            d if isinstance(d, int) else (d.value or f"{value.name}.{axis}")
            for axis, d in enumerate(value.shape)
        )
        ports.append(Port(value.name, str(value.dtype.numpy()), shape, "as in the file"))
    return tuple(ports)
