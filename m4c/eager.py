"""Run the source model in torch with real weights, a module's at a time: the reference that artifacts are compared with.

The source is a skeleton (:mod:`m4c.skeleton`). Just before a module runs, its own parameters are read from the checkpoint, and
just after they are let go, so a model of any size runs in the memory of its largest module and its activations.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from m4c.ahead import ahead
from m4c.errors import Bug
from m4c.models.graph import Graph
from m4c.weights import array, divisible, part, stretches

PART = 4 << 20
"""Bytes of a weight that are read at once."""


def run_eager(
    graph: Graph, weights: Mapping[str, ir.TensorProtocol], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the outputs of ``graph`` by name, computed by torch on ``inputs`` with ``weights``."""
    arguments = [torch.from_numpy(np.ascontiguousarray(inputs[port.name])) for port in graph.inputs]
    with torch.no_grad(), streamed(graph.module.source, weights, in_parts=True):
        made = graph.module(*arguments)
    results = made if isinstance(made, tuple) else (made,)
    if any(isinstance(value, FakeTensor) for value in results):
        raise Bug(
            "a weight was used outside the module that owns it",
            where=graph.name,
            fix="read every parameter in the forward of its own module",
        )
    return {port.name: value.numpy() for port, value in zip(graph.outputs, results, strict=True)}


@contextmanager
def streamed(
    source: nn.Module, weights: Mapping[str, ir.TensorProtocol], *, in_parts: bool = False
) -> Iterator[None]:
    """Inside this context every module of ``source`` reads its own weights when it is called and drops them after.

    ``in_parts``: linear layers and embeddings read theirs in stretches, by all cores, and never hold them whole.
    """
    hooks, replaced = [], []
    for path, module in source.named_modules():
        prefix = f"{path}." if path else ""
        own = {name: weights[prefix + name] for name in _own(module) if prefix + name in weights}
        forward = _in_parts(module, own) if in_parts and own else None
        if forward is not None:
            module.forward = forward
            replaced.append(module)
        elif own:
            load, drop = _hooks(own)
            hooks.append(module.register_forward_pre_hook(load))
            # prepended: of two nested contexts the inner one must give back what the outer one put
            hooks.append(module.register_forward_hook(drop, prepend=True, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in replaced:
            del module.forward


def _in_parts(
    module: nn.Module, own: Mapping[str, ir.TensorProtocol]
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a forward that reads the weight in stretches, if ``module`` is of a kind that allows it."""
    weight = own.get("weight")
    if weight is None or not divisible(weight):
        return None
    if type(module) is nn.Linear:
        return partial(linear, weight, own.get("bias"))
    return partial(_embedding, weight) if type(module) is nn.Embedding else None


def linear(weight: ir.TensorProtocol, bias: ir.TensorProtocol | None, x: torch.Tensor) -> torch.Tensor:
    """Return ``x · weightᵀ + bias``, some outputs at a time, by all cores."""

    def outputs(rows: slice) -> torch.Tensor:
        return functional.linear(x, _torch(part(weight, rows)))

    with torch.no_grad():  # of this thread; each worker has its own
        made = torch.cat(list(ahead(torch.no_grad()(outputs), stretches(weight, PART))), dim=-1)
    return made if bias is None else made + as_torch(bias)


def _embedding(weight: ir.TensorProtocol, ids: torch.Tensor) -> torch.Tensor:
    """Return the rows of ``weight`` that ``ids`` name, reading only those."""
    rows = {i: _torch(part(weight, slice(i, i + 1))) for i in sorted(set(ids.flatten().tolist()))}
    return torch.cat([rows[i] for i in ids.flatten().tolist()]).view(*ids.shape, -1)


def as_torch(tensor: ir.TensorProtocol) -> torch.Tensor:
    """Return a weight as torch has it: the array itself where it was computed, a copy where it is a mapped file's."""
    return _torch(array(tensor))


def _torch(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _own(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters and buffers, without those of its children."""
    return [n for n, _ in module.named_parameters(recurse=False)] + [
        n for n, _ in module.named_buffers(recurse=False)
    ]


def _hooks(own: Mapping[str, ir.TensorProtocol]) -> tuple[Any, Any]:
    """Return the hooks that put weights into a module and that take them out again."""
    held: list[dict[str, torch.Tensor]] = []

    def load(module: nn.Module, _arguments: object) -> None:
        held.append({name: getattr(module, name) for name in own})
        for name, tensor in own.items():
            _put(module, name, as_torch(tensor))

    def drop(module: nn.Module, _arguments: object, _result: object) -> None:
        for name, tensor in held.pop().items():
            _put(module, name, tensor)

    return load, drop


def _put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Set a parameter or buffer without registering it anew."""
    if name in module._parameters:
        module._parameters[name] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
    else:
        module._buffers[name] = tensor
