"""``adapter_config.json``: what PEFT says of an adapter, and which modules it means by that."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4c.errors import CheckpointError
from m4c.json_file import read_json

CONFIG = "adapter_config.json"

ALL_LINEAR = "all-linear"
"""PEFT's word for every linear layer but the output layer."""

UNREAD = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Keys of PEFT 0.21's LoraConfig that change what an adapter computes in ways that m4c does not know."""


@dataclass(frozen=True)
class Configuration:
    """A LoRA adapter's configuration, in PEFT's meaning; ``fan_in_fan_out`` is for layers that no sub-model has."""

    rank: int
    alpha: float
    targets: str | tuple[str, ...]
    """A regular expression for whole paths, ``all-linear``, or ends of paths."""
    excluded: str | tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    """Modules that are stored whole."""
    bias: str = "none"
    dora: bool = False
    rank_stabilized: bool = False
    outer_bias: bool = False
    """Whether the second factor has a bias (``lora_bias``)."""
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None

    def rank_of(self, module: str) -> int:
        """Return the inner size of the pair at ``module``."""
        return int(_by_pattern(self.rank_pattern or {}, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Return the factor of B·A at ``module``: α/r, or α/√r where it is rank-stabilized."""
        alpha, rank = _by_pattern(self.alpha_pattern or {}, module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank

    def targeted(self, module: str, in_all_linear: bool) -> bool:
        """Return whether ``module`` gets a pair; ``in_all_linear`` tells if ``all-linear`` means it."""
        if _named(self.excluded, module) or any(
            re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.saved
        ):
            return False
        if self.targets == ALL_LINEAR:
            return in_all_linear
        return _named(self.targets, module) and (isinstance(self.targets, str) or self._in_layers(module))

    def _in_layers(self, module: str) -> bool:
        """Return whether ``module`` is in one of the layers that the configuration is limited to."""
        if not self.layers:
            return True
        # PEFT takes the first number in the path, whatever the pattern
        patterns = [rf"(?:^|.*?\.){name}" for name in self.layers_pattern] or [r".*?\.[^.]*"]
        found = (re.match(rf"{pattern}\.(\d+)\.", module) for pattern in patterns)
        first = next((match for match in found if match is not None), None)
        return first is not None and int(first[1]) in self.layers


def _named(names: str | tuple[str, ...], module: str) -> bool:
    """Return whether a regular expression means all of ``module``, or one of several names is its end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _by_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """Return the value of the first pattern that the end of ``module`` matches."""
    found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, otherwise)


def read_configuration(path: Path) -> Configuration:
    """Read the file at ``path``.

    Raises:
        CheckpointError: if it is damaged, of another kind than LoRA, or has options that m4c does not know.
    """
    try:
        table = read_json(path)
        kind = table.get("peft_type") if isinstance(table, dict) else None
    except ValueError as error:
        raise CheckpointError(
            f"not a readable {CONFIG}: {error}", where=str(path), fix="copy the adapter again"
        ) from error
    if kind != "LORA":
        raise CheckpointError(
            f"the adapter is of type {kind}, m4c reads LORA", where=str(path), fix="train a LoRA adapter"
        )
    unread = [key for key in UNREAD if table.get(key)]
    if unread:
        raise CheckpointError(
            f"the adapter uses {', '.join(unread)}, which m4c does not read",
            where=str(path),
            fix="train it without, or merge it by PEFT and export the merged checkpoint",
        )
    try:
        return _configuration(table)
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{CONFIG} is damaged: {type(error).__name__} {error}",
            where=str(path),
            fix="copy the adapter again",
        ) from error


def _configuration(table: Mapping[str, Any]) -> Configuration:
    """Return the configuration that a table of plain data states."""
    get = _checked(table)
    made = Configuration(
        rank=get("r", (int,), 8),
        alpha=get("lora_alpha", (int, float), 8),
        targets=_names(table.get("target_modules")),
        excluded=_names(table.get("exclude_modules")),
        saved=_list(table.get("modules_to_save")),
        bias=get("bias", (str,), "none"),
        dora=get("use_dora", (bool,), False),
        rank_stabilized=get("use_rslora", (bool,), False),
        outer_bias=get("lora_bias", (bool,), False),
        layers=_numbers(table.get("layers_to_transform")),
        layers_pattern=_list(table.get("layers_pattern")),
        rank_pattern=get("rank_pattern", (dict,), {}),
        alpha_pattern=get("alpha_pattern", (dict,), {}),
    )
    for rank in (made.rank, *(made.rank_pattern or {}).values()):
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"a rank of {rank}")
    if made.bias not in ("none", "all", "lora_only"):
        raise ValueError(f"bias {made.bias!r}")
    patterns = [*(made.rank_pattern or {}), *(made.alpha_pattern or {}), *made.saved, *made.layers_pattern]
    for pattern in [*patterns, *(names for names in (made.targets, made.excluded) if isinstance(names, str))]:
        re.compile(pattern)
    if isinstance(made.targets, str) and made.targets.lower() == ALL_LINEAR:
        return Configuration(**{**vars(made), "targets": ALL_LINEAR})
    return made


def _checked(table: Mapping[str, Any]) -> Callable[[str, tuple[type, ...], Any], Any]:
    """Return a function that takes a value of the table, or a default where it is absent or null."""

    def get(key: str, kinds: tuple[type, ...], otherwise: Any) -> Any:
        value = table.get(key)
        if value is None:
            return otherwise
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{key} is {value!r}")
        return value

    return get


def _names(value: Any) -> str | tuple[str, ...]:
    """Return a regular expression as it is, or a list of names."""
    return value if isinstance(value, str) else _list(value)


def _list(value: Any) -> tuple[str, ...]:
    """Return a list of names; a single one counts as a list of one, and null as none."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{value!r} is no list of names")
    return tuple(names)


def _numbers(value: Any) -> tuple[int, ...] | None:
    """Return numbers of layers; PEFT allows one without a list."""
    numbers = [] if value is None else [value] if isinstance(value, int) else value
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"{value!r} is no list of numbers of layers")
    return tuple(numbers) or None
