"""How many bytes of values a graph holds at once: its modules are run on fake tensors, which have sizes and no numbers."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from m4c.models.graph import Graph
from m4c.skeleton import FAKE


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators make, until nobody has them; views share one."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        """Start from nothing; the storages of ``known``, the weights, are not counted."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._weights = [tensor.untyped_storage() for tensor in known]
        self._known: dict[int, Any] = {id(storage): storage for storage in self._weights}

    def hold(self, value: object) -> None:
        """Count a tensor, or those of a list or a tuple, that was not known."""
        if isinstance(value, list | tuple):
            for one in value:
                self.hold(one)
        elif isinstance(value, torch.Tensor):
            storage, size = value.untyped_storage(), value.untyped_storage().nbytes()
            key = id(storage)
            if key in self._known:
                return
            self._known[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count what it makes."""
        made = func(*args, **(kwargs or {}))
        self.hold(made)
        return made


def activation_bytes(graph: Graph) -> int:
    """Return the most bytes of values that ``graph`` holds at once at its sizes, in the dtypes of its modules.

    Inputs and outputs count, weights and buffers do not. A value is held until the last operator that reads it has run, and
    attention has its scores as a value: a runtime that fuses or computes in place needs less.
    """
    known = [*graph.module.parameters(), *graph.module.buffers()]
    with torch.no_grad(), FAKE, sdpa_kernel(SDPBackend.MATH):
        held = _Held(known)
        inputs = [
            torch.zeros(port.sized(graph.sizes), dtype=getattr(torch, port.dtype)) for port in graph.inputs
        ]
        held.hold(inputs)
        with held:
            graph.module(*inputs)
    return held.peak
