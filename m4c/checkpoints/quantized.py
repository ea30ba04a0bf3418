"""Quantized checkpoints: what stores one matrix as several tensors becomes one weight, its codes kept as they are.

``X.qweight``, ``X.qzeros``, ``X.scales`` and ``X.g_idx`` become ``X.weight``: its values for who asks for values, and for who
wants integers its origin, a :class:`~m4c.blockwise.BlockwiseWeight` whose codes nobody rounds again.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.blockwise import STRETCH, BlockwiseWeight
from m4c.checkpoints.configuration import read_configuration
from m4c.checkpoints.packed import WORD, PackedMatrix
from m4c.checkpoints.quantization import Awq, Gptq, Settings, settings_of
from m4c.errors import CheckpointError
from m4c.grid import Grid
from m4c.weights import Array, Recipe, array

CODES = ".qweight"
"""How the name of a packed matrix ends."""

PARTS = (CODES, ".qzeros", ".scales", ".g_idx")

BIASES = {"self_attn": "attention_bias", "mlp": "mlp_bias"}
"""Parts of a LLaMA layer → what its ``config.json`` says of biases there."""

Tensors = Mapping[str, ir.TensorProtocol]


def with_weights(held: Tensors, folder: Path) -> Tensors:
    """Return the tensors of a checkpoint in ``folder`` with its quantized matrices as weights (outputs, inputs), float32.

    Zero points are read, to know which grids are symmetric; codes and scales are not. Biases that are zeros, where the model
    has none, are left out.

    Raises:
        CheckpointError: if the checkpoint is quantized in a way that m4c does not read, or its tensors do not agree.
    """
    settings = settings_of(folder)
    names = [key.removesuffix(CODES) for key in held if key.endswith(CODES)]
    if not names:
        return held
    if settings is None:
        raise CheckpointError(
            f"{names[0]}{CODES} is packed, but nothing says how",
            where=str(folder),
            fix="put the config.json that the checkpoint was published with beside it",
        )
    taken = {name + part for name in names for part in PARTS}
    taken |= {f"{name}.bias" for name in _unbiased(names, folder) if _is_zero(held.get(f"{name}.bias"))}
    made = {key: tensor for key, tensor in held.items() if key not in taken}
    for name in names:
        key = f"{name}.weight"
        if key in made:
            raise _wrong(name, f"{key} and {name}{CODES} are both there")
        made[key] = _weight(name, settings, held)
    return made


def _unbiased(names: list[str], folder: Path) -> list[str]:
    """Return the layers that have no bias in the model: early versions of AutoGPTQ store zeros for it."""
    path = folder / "config.json"
    config = read_configuration(path) if path.is_file() else {}
    if config.get("model_type") != "llama":
        return []
    without = {part for part, flag in BIASES.items() if not config.get(flag)}
    return [name for name in names if without & set(name.split("."))]


def _is_zero(bias: ir.TensorProtocol | None) -> bool:
    """Return whether there is a bias and it is none."""
    return bias is not None and not array(bias).any()


def _weight(name: str, settings: Settings, held: Tensors) -> Recipe:
    """Return the matrix of a layer called ``name``."""
    missing = [part for part in (".qzeros", ".scales") if name + part not in held]
    if missing:
        raise _wrong(name, f"{name}{CODES} is there, but not {', '.join(name + part for part in missing)}")
    outputs, inputs = _shape(name, settings, held)
    if settings.group is not None and inputs % settings.group:
        raise _wrong(name, f"{name} has {inputs} inputs, which are not whole groups of {settings.group}")
    groups = 1 if settings.group is None else inputs // settings.group
    _check_shapes(name, settings, held, (outputs, groups))
    packed = PackedMatrix(
        name,
        settings,
        held[name + CODES],
        held[f"{name}.qzeros"],
        held[f"{name}.scales"],
        _order(name, settings, held, inputs, groups),
    )
    return BlockwiseWeight(
        f"{name}.weight",
        (outputs, inputs),
        _grid(packed, outputs),
        packed.rows,
        packed.order,
        max(WORD, STRETCH // inputs // WORD * WORD),  # whole words
    ).dequantized()


def _shape(name: str, settings: Settings, held: Tensors) -> tuple[int, int]:
    """Return (outputs, inputs), which the codes' own shape tells."""
    codes = held[name + CODES]
    shape = codes.shape.numpy()
    if codes.dtype != ir.DataType.INT32 or len(shape) != 2 or 0 in shape:
        raise _wrong(name, f"{name}{CODES} is {codes.dtype.name}{list(shape)}, not an INT32 matrix")
    match settings:
        case Gptq(bits=bits):
            return shape[1], shape[0] * (WORD // bits)
        case Awq():
            return shape[1] * 8, shape[0]


def _check_shapes(name: str, settings: Settings, held: Tensors, few: tuple[int, int]) -> None:
    """Refuse zero points or scales that do not belong to codes of ``few`` = (outputs, groups)."""
    outputs, groups = few
    each = WORD // (settings.bits if isinstance(settings, Gptq) else 4)
    if outputs % each:
        raise _wrong(name, f"{name} has {outputs} outputs, which are not whole words of {each}")
    floats = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT}
    for part, dtypes, shape in (
        (".qzeros", {ir.DataType.INT32}, (groups, outputs // each)),
        (".scales", floats, (groups, outputs)),
    ):
        tensor = held[name + part]
        if tensor.dtype not in dtypes or tensor.shape.numpy() != shape:
            wanted = " or ".join(sorted(dtype.name for dtype in dtypes))
            raise _wrong(
                name,
                f"{name}{part} is {tensor.dtype.name}{list(tensor.shape.numpy())}, not {wanted}{list(shape)}",
            )


def _order(name: str, settings: Settings, held: Tensors, inputs: int, groups: int) -> Array | None:
    """Return the order of the inputs that makes groups of neighbours, None if they are that as they lie."""
    tensor = held.get(f"{name}.g_idx")
    if tensor is None:
        if isinstance(settings, Gptq) and settings.reordered and groups > 1:
            raise _wrong(name, f"{name}.g_idx is missing, though desc_act groups inputs by importance")
        return None
    integers = {ir.DataType.INT32, ir.DataType.INT64}
    if tensor.dtype not in integers or tensor.shape.numpy() != (inputs,):
        raise _wrong(
            name, f"{name}.g_idx is {tensor.dtype.name}{list(tensor.shape.numpy())}, not INT32[{inputs}]"
        )
    index = array(tensor)
    if index.min() < 0 or index.max() >= groups:
        raise _wrong(name, f"{name}.g_idx names groups {index.min()}…{index.max()}, there are {groups}")
    if (np.bincount(index, minlength=groups) != inputs // groups).any():
        raise _wrong(name, f"{name}.g_idx makes groups of unequal size")
    order = np.argsort(index, kind="stable")
    return None if np.array_equal(order, np.arange(inputs)) else order


def _grid(packed: PackedMatrix, outputs: int) -> Grid:
    """Return the grid, symmetric if the settings say so and every zero point is the middle."""
    match packed.settings:
        case Awq(group=group):
            return Grid(4, group, symmetric=False)
        case Gptq(bits=bits, group=group, symmetric=symmetric):
            zeros = packed.zeros(slice(0, outputs))
            grid = Grid(bits, group)
            if zeros.max() > grid.top:
                raise _wrong(
                    packed.name,
                    f"{packed.name} has a zero point of {zeros.max()}, which readers of GPTQ's first format "
                    "take for different numbers",
                    "save the checkpoint anew with checkpoint_format gptq_v2",
                )
            return grid if symmetric and (zeros == grid.middle).all() else Grid(bits, group, symmetric=False)


def _wrong(name: str, what: str, fix: str = "") -> CheckpointError:
    """Return the error for tensors that do not agree."""
    return CheckpointError(
        what,
        where=name,
        fix=fix or "download the whole checkpoint again, with the config.json of its version",
    )
