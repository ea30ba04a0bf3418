"""Shared by the tests of decoders: a captured graph with the weights of its module, in ONNX Runtime."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnxscript.optimizer import optimize_ir
from torch import nn

from m4c.capture import bind, capture
from m4c.model import operator_counts
from m4c.models.graph import Graph, Submodel


class Session:
    """One graph; call it with its inputs by name to get its outputs by name."""

    def __init__(self, graph: Graph) -> None:
        model = capture(graph)
        state = graph.module.source.state_dict()
        bind(model, {name: ir.tensor(value.numpy(), name=name) for name, value in state.items()})
        optimize_ir(model)
        self.operators = set(operator_counts(model))
        self.session = onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))


def eager(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the module of ``graph`` itself."""
    with torch.no_grad():
        out = graph.module(*(torch.from_numpy(inputs[port.name]) for port in graph.inputs))
    outputs = out if isinstance(out, tuple) else (out,)
    return {port.name: t.numpy() for port, t in zip(graph.outputs, outputs, strict=True)}


def graph(submodel: Submodel, name: str) -> Graph:
    """Return the graph ``<submodel>/<name>``."""
    return next(g for g in submodel.graphs if g.name == f"{submodel.name}/{name}")


def shake(module: nn.Module) -> None:
    """Give every parameter and every running statistic values that no two places share."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(
                    torch.rand_like(tensor) * 0.2 if "running_var" in name else torch.randn_like(tensor) * 0.1
                )


def assert_fits(graph: Graph) -> None:
    """The sample and the eager outputs have the names, dtypes and shapes that the ports state."""
    inputs = graph.sample(np.random.default_rng(0), graph.sizes)
    assert list(inputs) == [port.name for port in graph.inputs]
    for ports, values in ((graph.inputs, inputs), (graph.outputs, eager(graph, inputs))):
        for port in ports:
            value = values[port.name]
            assert (str(value.dtype), value.shape) == (port.dtype, port.sized(graph.sizes))
            assert port.meaning
