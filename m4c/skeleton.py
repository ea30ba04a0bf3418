"""Source models without their weights: every parameter is a fake tensor, every buffer is real.

Parameters come from the checkpoint when they are needed. Buffers that no checkpoint holds (rotary tables, masks) are computed
by the model's own constructor and become constants of the graph.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

FAKE = FakeTensorMode(allow_non_fake_inputs=True)
"""The one mode that all fake parameters belong to; capture traces in it."""


@contextmanager
def skeleton() -> Iterator[None]:
    """Build modules inside this context and their parameters take no memory, and no time to initialise as they are fake."""
    register = nn.Module.register_parameter

    def register_fake(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not isinstance(param, FakeTensor):  # a fake one is shared: a tied weight
            with FAKE:
                empty = torch.empty(param.shape, dtype=param.dtype)
            self._parameters[name] = nn.Parameter(empty, requires_grad=False)

    nn.Module.register_parameter = register_fake  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
