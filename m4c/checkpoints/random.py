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

STEP = 8
"""Values that one step of the generator's counter gives: four numbers of 64 bits."""


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

    row = math.prod(shape[1:])

    def draw(start: int, count: int) -> Array:
        values = _uniform(f"{seed}:{name}", start, count)
        values *= np.float32(width)
        values += centre
        return values

    def part(rows: slice) -> Array:
        count = rows.stop - rows.start
        return draw(rows.start * row, count * row).reshape(count, *shape[1:])

    whole = math.prod(shape)
    aligned = shape and row % STEP == 0
    return lazy(
        name, ir.DataType.FLOAT, shape, lambda: draw(0, whole).reshape(shape), part if aligned else None
    )


def _uniform(key: str, start: int, count: int) -> Array:
    """Return ``count`` float32 values in [-1, 1), each a multiple of 2⁻²³, from the ``start``-th of a sequence on.

    They are drawn in pieces, so nothing else of their size is held. ``start`` is a multiple of :data:`STEP`.
    """
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=digest).advance(start // STEP)
    values = np.empty(count, np.float32)
    for start in range(0, values.size, PIECE):
        piece = values[start : start + PIECE]
        raw = generator.random_raw((piece.size + 1) // 2).astype("<u8", copy=False)
        piece[:] = raw.view("<u4")[: piece.size] >> np.uint32(8)
    values *= np.float32(2**-23)
    values -= np.float32(1)
    return values
