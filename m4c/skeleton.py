"""Source models without their weights: every parameter is a fake tensor, every buffer is real.

Parameters come from the checkpoint when they are needed. Buffers that no checkpoint holds (rotary tables, masks) are computed
by the model's own constructor and become constants of the graph.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

FAKE = FakeTensorMode(allow_non_fake_inputs=True)
"""The one mode that all fake parameters belong to; capture traces in it."""


def _keep(tensor: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
    """Stand in for an initialisation: leave the values as they are."""
    return tensor


@contextmanager
def skeleton() -> Iterator[None]:
    """Build modules inside this context and their parameters take no memory and no time to initialise."""
    register = nn.Module.register_parameter
    initialisers = {
        name: getattr(nn.init, name)
        for name in dir(nn.init)
        if name.endswith("_") and not name.startswith("_")
    }

    def register_fake(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not isinstance(param, FakeTensor):  # a fake one is shared: a tied weight
            with FAKE:
                empty = torch.empty(param.shape, dtype=param.dtype)
            self._parameters[name] = nn.Parameter(empty, requires_grad=False)

    nn.Module.register_parameter = register_fake  # type: ignore[method-assign]
    for name in initialisers:
        setattr(nn.init, name, _keep)
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        for name, initialiser in initialisers.items():
            setattr(nn.init, name, initialiser)
