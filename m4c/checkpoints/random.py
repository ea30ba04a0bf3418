"""Random weights from a seed: generated when read, a tensor at a time, the same bytes on every machine.

Each tensor has its own counter-based generator, keyed by the seed and the tensor's name, so neither order nor threads
matter. Values are uniform and made from integers by exact float arithmetic: no logarithm, no platform's libm.
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from torch import nn

from m4c.weights import Array, lazy

SPREAD = 0.02
"""Half-width of the values of embeddings and biases, as usual in transformers."""

PIECE = 1 << 20
"""How many values are drawn at once; even, as the generator gives two at a time."""


def random_weights(source: nn.Module, seed: int) -> Mapping[str, ir.TensorProtocol]:
    """Return a random float32 tensor for every parameter of ``source``; its persistent buffers keep their values.

    Matrices keep the variance of what passes through them (uniform within ±√(3 / inputs)); norm weights lie around 1.
    A token that joins others in a sequence is as large as they are: a state much smaller than its neighbours would be
    lost in integers.
    A parameter that has several names has the values of the first.
    """
    parameters: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, parameter in source.named_parameters(remove_duplicate=False):
        parameters[name] = first.setdefault(id(parameter), name)
    embeddings = {
        f"{name}.weight" for name, module in source.named_modules() if isinstance(module, nn.Embedding)
    }
    made: dict[str, ir.TensorProtocol] = {}
    for name, tensor in source.state_dict().items():
        if name in parameters:
            own = parameters[name]
            made[name] = _random(own, tuple(tensor.shape), seed, own in embeddings)
        else:
            made[name] = ir.tensor(tensor, name=name)
    return made


def _random(name: str, shape: tuple[int, ...], seed: int, embedding: bool) -> ir.LazyTensor:
    """Return one lazy tensor."""
    norm = len(shape) <= 1 and name.rsplit(".", 1)[-1] not in ("bias", "in_proj_bias")
    token = len(shape) > 2 and all(size == 1 for size in shape[:-1])
    flat = len(shape) <= 1 or embedding or all(size == 1 for size in shape[:-1])
    width = math.sqrt(3) if token else SPREAD if flat else math.sqrt(3 / math.prod(shape[1:]))
    centre = np.float32(1 if norm else 0)

    def read() -> Array:
        values = _uniform(f"{seed}:{name}", shape)
        values *= np.float32(width)
        values += centre
        return values

    return lazy(name, ir.DataType.FLOAT, shape, read)


def _uniform(key: str, shape: tuple[int, ...]) -> Array:
    """Return float32 values in [-1, 1), each a multiple of 2⁻²³; drawn in pieces, so nothing else of their size is held."""
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=digest)
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, values.size, PIECE):
        piece = values[start : start + PIECE]
        raw = generator.random_raw((piece.size + 1) // 2).astype("<u8", copy=False)
        piece[:] = raw.view("<u4")[: piece.size] >> np.uint32(8)
    values *= np.float32(2**-23)
    values -= np.float32(1)
    return values.reshape(shape)
