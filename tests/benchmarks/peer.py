"""What the oracle is made by: litert-torch converts a torch module, ai-edge-quantizer rounds it. Neither is needed by m4c.

    pip install -e ".[oracle]"    # in an environment of its own, without constraints.txt

Graphs of m4c are given to them as modules with the same weights, and both sides are fed the same samples.
"""

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from m4c.build import pipeline_for
from m4c.calibration import Samples
from m4c.checkpoints.random import random_weights
from m4c.eager import as_torch
from m4c.match import match
from m4c.models import build
from m4c.models.graph import Graph
from m4c.plan import plan
from m4c.request import Request
from m4c.runners import from_stored, to_stored
from m4c.source import TorchSource
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.profile import load_target

Array = np.ndarray
Sample = Mapping[str, Array]
SIGNATURE = "serving_default"


def source_of(name: str, preset: str = "m4-nano", seed: int = 0) -> TorchSource:
    """Return a graph of a preset whose module holds its random weights, so that any tool can read them."""
    submodel = build(name.partition("/")[0], preset)
    weights = match(submodel, random_weights(submodel.source, seed))
    filled(submodel.source, weights)
    (graph,) = (g for g in submodel.graphs if g.name == name)
    return TorchSource(graph, weights)


def filled(source: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Put ``weights`` into ``source``."""
    held = source.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            held[name].copy_(as_torch(tensor))


def arguments(graph: Graph, sample: Sample) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a graph in order."""
    return tuple(torch.from_numpy(np.ascontiguousarray(sample[port.name])) for port in graph.inputs)


def eager(source: TorchSource, sample: Sample) -> list[Array]:
    """Return what torch computes."""
    with torch.no_grad():
        made = source.graph.module(*arguments(source.graph, sample))
    return [value.numpy() for value in (made if isinstance(made, tuple) else (made,))]


def ours(
    source: TorchSource, samples: Sequence[Sample], path: Path, precision: str = "int8", **options: Any
) -> Path:
    """Write a graph as m4c does, calibrated on ``samples`` where the precision asks for it; it is not verified."""
    request = Request(
        load_target("cpu"),
        (source.name,),
        format="tflite",
        precision=precision,
        calibration="random",
        **options,
    )
    planned = plan(request, source)
    calibrated = Samples("", samples) if precision == "int8" else None
    pipeline = pipeline_for(request, planned, calibrated, path.parent / "work", lambda done, total: None)
    sized = source.sized(next(iter(planned.signatures.values())))
    model, _ = pipeline.run(sized.capture())
    to_tflite(model, path)
    return path


def theirs(source: TorchSource, sample: Sample, path: Path) -> Path:
    """Write a graph in float32 as litert-torch does; indices are int32."""
    import litert_torch

    logging.getLogger().setLevel(logging.ERROR)
    with contextlib.redirect_stdout(None):
        given = tuple(torch.from_numpy(_narrow(value.numpy())) for value in arguments(source.graph, sample))
        litert_torch.convert(source.graph.module.eval(), given).export(str(path))
    return path


def rounded(path: Path, recipe: str, samples: Iterable[Sample], graph: Graph, out: Path) -> Path:
    """Round a file of :func:`theirs` as a recipe of ai-edge-quantizer says."""
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    made = quantizer.Quantizer(str(path))
    made.load_quantization_recipe(getattr(recipes, recipe)())
    result = None
    if made.need_calibration:
        feeds = [
            {f"args_{i}": _narrow(sample[port.name]) for i, port in enumerate(graph.inputs)}
            for sample in samples
        ]
        result = made.calibrate({SIGNATURE: feeds})
    out.unlink(missing_ok=True)
    made.quantize(result).export_model(str(out))
    return out


def _narrow(value: Array) -> Array:
    """Return what litert-torch takes: it cannot convert ArgMax of int64."""
    return value.astype(np.int32) if value.dtype == np.int64 else value


class Runner:
    """A TFLite file of either side, fed by position."""

    def __init__(self, path: Path, graph: Graph, threads: int = 2) -> None:
        """Load ``path`` with LiteRT's default delegate."""
        self.interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        names = list(self.interpreter.get_signature_list())
        self.signature = self.interpreter.get_signature_runner(names[0])
        given, made = self.signature.get_input_details(), self.signature.get_output_details()
        own = [port.name for port in graph.inputs]
        self._inputs = own if set(own) == set(given) else [f"args_{i}" for i in range(len(own))]
        outputs = [port.name for port in graph.outputs]
        self._outputs = outputs if set(outputs) == set(made) else [f"output_{i}" for i in range(len(outputs))]
        self._given, self._made, self._ports = given, made, own

    def feeds(self, sample: Sample) -> dict[str, Array]:
        """Return the inputs as the file takes them."""
        pairs = zip(self._inputs, self._ports, strict=True)
        return {name: to_stored(sample[port], self._given[name]) for name, port in pairs}

    def __call__(self, sample: Sample) -> list[Array]:
        """Return the outputs in order, in float32 where they have a scale."""
        made = self.signature(**self.feeds(sample))
        return [from_stored(made[name], self._made[name]) for name in self._outputs]


def sized(source: TorchSource, **sizes: int) -> TorchSource:
    """Return ``source`` with dimensions of other sizes."""
    return replace(source, graph=source.graph.sized(sizes))
