"""Quantize a model layer by layer on samples: each linear layer sees what the quantized layers before it make of them.

The source runs once, with weights streamed in (:mod:`m4c.eager`). Just before a linear layer computes, its weight is
quantized by :mod:`m4c.rounding.gptq` for the activations at hand, put into a scratch file, and replaced by what the codes
stand for. In memory are one layer's weight, one Hessian with a copy, and the activations that the model itself holds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from m4c.blockwise import BlockwiseWeight
from m4c.eager import streamed
from m4c.errors import M4CError, NumbersError, UsageError
from m4c.grid import Grid
from m4c.models.graph import Graph
from m4c.progress import Progress
from m4c.rounding.gptq import DAMPING, Feedback, feedback, quantize
from m4c.rounding.scratch import keep
from m4c.weights import Array, spans

CHUNK = 1 << 22
"""Numbers of an activation that are added to a Hessian at once."""


def calibrate(
    graph: Graph,
    weights: Mapping[str, ir.TensorProtocol],
    inputs: Mapping[str, Array],
    grids: Mapping[str, Grid],
    workspace: Path,
    progress: Progress,
    *,
    act_order: bool = False,
    damping: float = DAMPING,
) -> dict[str, BlockwiseWeight]:
    """Return the weights that ``grids`` names, quantized for ``inputs``, which are all samples in one batch.

    They are read from files in the folder ``workspace``, which has to stay until they are written elsewhere.

    Raises:
        UsageError: if ``grids`` names what is not the weight of a linear layer, or of one that ``graph`` does not run.
        NumbersError: if the samples make no usable Hessian.
    """
    arguments = [torch.from_numpy(np.ascontiguousarray(inputs[port.name])) for port in graph.inputs]
    calibrated = Calibrated(graph, grids, workspace, progress, act_order=act_order, damping=damping)
    with torch.no_grad(), streamed(graph.module.source, weights):
        calibrated.run(arguments)
    return calibrated.made


class Calibrated:
    """One pass over a source whose linear layers are quantized as they are reached."""

    def __init__(
        self,
        graph: Graph,
        grids: Mapping[str, Grid],
        workspace: Path,
        progress: Progress,
        *,
        act_order: bool = False,
        damping: float = DAMPING,
    ) -> None:
        """Take which weights go on which grid; see :func:`calibrate`."""
        self.made: dict[str, BlockwiseWeight] = {}
        self._graph, self._grids, self._workspace, self._progress = graph, grids, workspace, progress
        self._act_order, self._damping = act_order, damping
        self._layers: dict[nn.Module, str] = {
            module: f"{path}.weight" if path else "weight"
            for path, module in graph.module.source.named_modules()
            if isinstance(module, nn.Linear)
        }
        self._seen: tuple[Tensor, int, Feedback] | None = None

    def run(self, arguments: list[Tensor]) -> None:
        """Run the graph on ``arguments``; the hooks that stream weights in are there already, and so run first."""
        self._expect(set(self._layers.values()), "is not the weight of a linear layer")
        hooks = [
            layer.register_forward_pre_hook(self._reach)
            for layer, name in self._layers.items()
            if name in self._grids
        ]
        try:
            self._graph.module(*arguments)
        finally:
            self._seen = None
            for hook in hooks:
                hook.remove()
        self._expect(set(self.made), "belongs to a layer that the graph does not run")

    def _expect(self, names: set[str], otherwise: str) -> None:
        """Raise if a grid is for none of ``names``."""
        for name in self._grids:
            if name not in names:
                raise UsageError(
                    f"{name} {otherwise}, so samples do not say how to round it",
                    where=self._graph.name,
                    fix="quantize it by the method rtn or hqq",
                )

    def _reach(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Quantize ``layer``, or if it was reached before, give it the weight that it got then."""
        name = self._layers[layer]
        grid, weight = self._grids[name], layer.get_parameter("weight")
        if name not in self.made:
            blocks = quantize(weight.detach().float(), self._feedback(name, arguments[0]), grid)
            self.made[name] = keep(name, blocks, grid, self._workspace)
            self._progress.step(self._graph.name, len(self.made), len(self._grids))
            values = blocks.dequantized()
        else:
            values = torch.from_numpy(np.array(self.made[name].dequantized().numpy()))
        # a new parameter, as the old one's memory may be the checkpoint's; the stream takes out whatever is there
        layer.weight = nn.Parameter(values.to(weight.dtype), requires_grad=False)

    def _feedback(self, name: str, activation: Tensor) -> Feedback:
        """Return the feedback for a layer's input; layers that are given one tensor share it."""
        seen = self._seen
        if seen is not None and seen[0] is activation and seen[1] == activation._version:
            return seen[2]
        self._seen = None
        try:
            made = feedback(_hessian(activation), act_order=self._act_order, damping=self._damping)
        except M4CError as error:
            raise NumbersError(error.what, where=name, fix=error.fix) from error
        self._seen = activation, activation._version, made
        return made


def _hessian(activation: Tensor) -> Tensor:
    """Return 2·XᵀX/n, float32 (inputs, inputs), of an activation (…, inputs) with n rows."""
    rows = activation.detach().reshape(-1, activation.shape[-1])
    made = torch.zeros(rows.shape[1], rows.shape[1])
    for part in spans(len(rows), max(1, CHUNK // rows.shape[1])):
        chunk = rows[part].float()
        made.addmm_(chunk.T, chunk, alpha=2 / len(rows))
    return made
