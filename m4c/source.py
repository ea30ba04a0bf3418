"""What a compile starts from: a graph of an M4 sub-model with its weights, or an ONNX file.

Both can be captured to a model, make inputs for themselves, and compute the outputs that artifacts are held against.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from m4c.errors import UsageError
from m4c.models.graph import Port

Array = np.ndarray
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

    def capture(self) -> ir.Model:
        """Return the model with lazy weights, before any pass."""

    def sample(self, seed: int) -> dict[str, Array]:
        """Return random inputs that make sense."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the true outputs."""

    def record(self, inputs: Mapping[str, Array], recorder: Recorder) -> None:
        """Compute the outputs and hand every value on the way to ``recorder``, under its name in the model."""


@dataclass(frozen=True)
class TorchSource:
    """A graph of a sub-model; truth is eager torch."""

    graph: Any
    """A :class:`m4c.models.graph.Graph`."""
    weights: Mapping[str, ir.TensorProtocol]
    dynamic: frozenset[str] = frozenset()

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

    def record(self, inputs: Mapping[str, Array], recorder: Recorder) -> None:
        """Run the exported program node by node."""
        from m4c.trace import trace

        trace(self.graph, self.weights, inputs, self.dynamic, recorder)


def _fixed(port: Port, sizes: Mapping[str, int], dynamic: frozenset[str]) -> Port:
    """Return ``port`` with every dimension that is not dynamic as a number."""
    shape = tuple(
        size
        if isinstance(size, str) and dynamic & set(size.split(" + "))
        else Port("", "", (size,), "").sized(sizes)[0]
        for size in port.shape
    )
    return Port(port.name, port.dtype, shape, port.meaning, port.host)


@dataclass(frozen=True)
class OnnxSource:
    """An ONNX file; truth is ONNX Runtime on the file as it is."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name twice, as sub-model and graph."""
        return f"{self.path.stem}/{self.path.stem}"

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs of the file."""
        return _ports(self._load().graph.inputs)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The outputs of the file."""
        return _ports(self._load().graph.outputs)

    def capture(self) -> ir.Model:
        """Load the file at the opset that the passes know; external weights stay on disk."""
        from onnxscript.version_converter import convert_version

        from m4c.capture import OPSET

        model = self._load()
        if model.opset_imports.get("", OPSET) != OPSET:
            convert_version(model, OPSET, fallback=True)
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

        return OnnxRunner(self.path).run(inputs)

    def record(self, inputs: Mapping[str, Array], recorder: Recorder) -> None:
        """Run the file with every value as an output."""
        from m4c.trace import onnx_values

        onnx_values(self.path, inputs, recorder)

    def _load(self) -> ir.Model:
        try:
            return ir.load(self.path)
        except Exception as error:  # protobuf's errors have no common base
            raise UsageError(f"not a readable ONNX file: {error}", where=str(self.path)) from error


def _ports(values: Any) -> tuple[Port, ...]:
    """Describe the inputs or outputs of a file."""
    ports = []
    for value in values:
        if value.dtype is None or value.shape is None:
            raise UsageError(
                f"{value.name} has no dtype or shape", fix="run ONNX shape inference on the file first"
            )
        shape = tuple(d if isinstance(d, int) else (d.value or "unknown") for d in value.shape)
        ports.append(Port(value.name, str(value.dtype.numpy()), shape, "as in the file"))
    return tuple(ports)
