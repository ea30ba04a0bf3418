"""Run the source model in torch with real weights, a module's at a time: the reference that artifacts are compared with.

The source is a skeleton (:mod:`m4c.skeleton`). Just before a module runs, its own parameters are read from the checkpoint, and
just after they are let go, so a model of any size runs in the memory of its largest module and its activations.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        return _named(graph, graph.module(*arguments))


def run_variants(
    graph: Graph, variants: Sequence[Mapping[str, ir.TensorProtocol]], inputs: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Return the outputs of ``graph`` with each of ``variants`` of its weights, as :func:`run_eager` computes them.

    Where only linear layers and tables differ, all are computed in one batch: what they share is read once.
    """
    modules = _differing(graph.module.source, variants)
    batched = all(port.shape[:1] == ("batch",) for port in (*graph.inputs, *graph.outputs))
    if not batched or any(type(module) not in (nn.Linear, nn.Embedding) for module in modules.values()):
        return [run_eager(graph, weights, inputs) for weights in variants]
    arguments = [
        torch.from_numpy(np.concatenate([inputs[port.name]] * len(variants))) for port in graph.inputs
    ]
    with torch.no_grad(), streamed(graph.module.source, variants[0], in_parts=True):
        before = {module: vars(module).get("forward") for module in modules.values()}
        try:
            for path, module in modules.items():
                module.forward = partial(_each, [_alone(module, path, weights) for weights in variants])
            made = _named(graph, graph.module(*arguments))
        finally:
            for module, forward in before.items():
                del module.forward
                if forward is not None:
                    module.forward = forward
    pieces = {name: np.split(values, len(variants)) for name, values in made.items()}
    return [{name: found[i] for name, found in pieces.items()} for i in range(len(variants))]


def _differing(
    source: nn.Module, variants: Sequence[Mapping[str, ir.TensorProtocol]]
) -> dict[str, nn.Module]:
    """Return the modules, by path, that have not the same weights in all ``variants``."""
    first, *others = variants
    keys = {name for other in others for name, tensor in other.items() if tensor is not first[name]}
    return {
        path: module
        for path, module in source.named_modules()
        if any(f"{path}.{name}" in keys for name in _own(module))
    }


def _alone(
    module: nn.Module, path: str, weights: Mapping[str, ir.TensorProtocol]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a linear layer or a table computes with ``weights``."""
    weight = weights[f"{path}.weight"]
    if type(module) is nn.Linear:
        return partial(linear, weight, weights.get(f"{path}.bias"))
    return partial(_embedding, weight)


def _each(alone: Sequence[Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
    """Return what each computes of its own share of the batch ``x``."""
    return torch.cat([one(share) for one, share in zip(alone, x.chunk(len(alone)), strict=True)])


def _named(graph: Graph, made: Any) -> dict[str, np.ndarray]:
    """Return what the module of ``graph`` made as arrays, by the names of the ports."""
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
