"""How a checkpoint says that its matrices are quantized: GPTQ's and AWQ's settings, and the refusal of all others.

Sources: ``quantization_config`` of transformers' ``config.json``; AutoGPTQ's and GPTQModel's ``quantize_config.json``;
AutoAWQ's ``quant_config.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from m4c.checkpoints.configuration import read_configuration
from m4c.errors import CheckpointError

BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files of the quantizers' own → the method of those that name none."""

TAKEN = "GPTQ of 4 or 8 bits (checkpoint_format gptq or gptq_v2) and AWQ of 4 bits (version gemm)"


@dataclass(frozen=True, slots=True)
class Gptq:
    """Codes packed along the inputs, zero points along the outputs."""

    bits: int
    group: int | None
    """Inputs that share a scale; None: all."""
    symmetric: bool
    reordered: bool
    """Whether inputs are grouped by importance (``desc_act``), so that ``g_idx`` is needed to read them."""
    below: int
    """How much less than a zero point is stored for it: 1 in the first format, 0 in the second."""


@dataclass(frozen=True, slots=True)
class Awq:
    """Codes and zero points of 4 bits, packed along the outputs in an order of their own."""

    group: int | None
    """Inputs that share a scale; None: all."""


Settings = Gptq | Awq


def settings_of(folder: Path) -> Settings | None:
    """Return how the matrices of the checkpoint in ``folder`` are quantized, None if nothing says that they are.

    Raises:
        CheckpointError: if a configuration is unreadable, or names what m4c does not read.
    """
    path = folder / "config.json"
    held = read_configuration(path).get("quantization_config") if path.is_file() else None
    if held is not None:
        if not isinstance(held, dict):
            raise _refused(f"quantization_config is a {type(held).__name__}, not a mapping", path)
        return _settings(held, held.get("quant_method"), path)
    for name, method in BESIDE.items():
        if (folder / name).is_file():
            held = read_configuration(folder / name)
            return _settings(held, held.get("quant_method", method), folder / name)
    return None


def _settings(held: Mapping[str, object], method: object, path: Path) -> Settings:
    """Return the settings of one method."""
    match method:
        case "gptq":
            return _gptq(held, path)
        case "awq":
            return _awq(held, path)
    raise _refused(f"the checkpoint is quantized by {method!r}", path)


def _gptq(held: Mapping[str, object], path: Path) -> Gptq:
    """Return GPTQ's settings."""
    form = held.get("checkpoint_format") or held.get("format") or "gptq"
    if form not in ("gptq", "gptq_v2") or held.get("is_marlin_format"):
        raise _refused(f"the checkpoint is GPTQ of the format {'marlin' if form == 'gptq' else form!r}", path)
    if held.get("dynamic"):
        raise _refused("the checkpoint is GPTQ with settings of their own for some matrices (dynamic)", path)
    if held.get("pack_dtype", "int32") != "int32":
        raise _refused(f"the checkpoint is GPTQ packed in {held['pack_dtype']!r}", path)
    bits = held.get("bits")
    if type(bits) is not int or bits not in (4, 8):
        raise _refused(f"the checkpoint is GPTQ of {bits!r} bits", path)
    return Gptq(
        bits=bits,
        group=_group(held.get("group_size"), path),
        symmetric=_flag(held, "sym", path),
        reordered=_flag(held, "desc_act", path),
        below=1 if form == "gptq" else 0,
    )


def _awq(held: Mapping[str, object], path: Path) -> Awq:
    """Return AWQ's settings; AutoAWQ's own file has other names for two of them."""
    version = str(held.get("version", held.get("format", "gemm"))).lower()
    if version != "gemm":
        raise _refused(f"the checkpoint is AWQ of the version {version!r}", path)
    bits = held.get("bits", held.get("w_bit"))
    if type(bits) is not int or bits != 4:
        raise _refused(f"the checkpoint is AWQ of {bits!r} bits", path)
    if held.get("zero_point", True) is not True:
        raise _refused("the checkpoint is AWQ without zero points", path)
    return Awq(_group(held.get("group_size", held.get("q_group_size")), path))


def _group(size: object, path: Path) -> int | None:
    """Return a group size: a power of two from 16 on, as runtimes take them, or None for −1."""
    if type(size) is not int or (size != -1 and (size < 16 or size & (size - 1))):
        raise _refused(
            f"the checkpoint is quantized in groups of {size!r}", path, "a power of two from 16 on, or -1"
        )
    return None if size == -1 else size


def _flag(held: Mapping[str, object], name: str, path: Path) -> bool:
    """Return a switch, off if it is not there."""
    value = held.get(name, False)
    if not isinstance(value, bool):
        raise _refused(f"{name} is {value!r}", path, "true or false")
    return value


def _refused(what: str, path: Path, taken: str = TAKEN) -> CheckpointError:
    """Return the error for a checkpoint that m4c does not read."""
    return CheckpointError(
        what,
        where=str(path),
        fix=f"m4c reads {taken}: take such a checkpoint, or the one that is not quantized",
    )
