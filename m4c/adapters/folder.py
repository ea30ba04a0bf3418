"""A folder that PEFT saved: every tensor finds its place in the sub-model, or the user learns which does not."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.adapters.configuration import CONFIG, Configuration, read_configuration
from m4c.adapters.given import Adapters, Given
from m4c.adapters.places import Place, places
from m4c.checkpoints import safetensors, torch_file
from m4c.errors import CheckpointError, NumbersError
from m4c.models.graph import Submodel
from m4c.weights import Array, array, part, stretches

FILE, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
"""What PEFT puts before the path of a module."""

SHOWN = 5

PART = 4 << 20
"""Bytes of a weight that are read at once."""

FACTORS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_B.bias": "bias",
    "lora_embedding_A": "down",
    "lora_embedding_B": "up",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
"""The ends of PEFT's keys, and what they are of a pair."""

ROLE = re.compile(rf"(.+)\.({'|'.join(re.escape(end) for end in FACTORS)})")

Tensors = Mapping[str, ir.TensorProtocol]


@dataclass(frozen=True, slots=True)
class Pair:
    """A change of low rank at one place: scale · B·A is added to the matrix.

    Of a table, the pair is stored turned around: A is (rank, rows) and B (width, rank).
    """

    place: Place
    down: ir.TensorProtocol
    """A, (rank, inputs); of a convolution with the axes of its kernel."""
    up: ir.TensorProtocol
    """B, (outputs, rank)."""
    scale: float
    magnitude: ir.TensorProtocol | None = None
    """DoRA's length of each row of the changed matrix."""
    bias: ir.TensorProtocol | None = None
    """Added to the bias of the layer, times the scale."""

    @property
    def rank(self) -> int:
        """The inner size."""
        return int(self.down.shape.numpy()[0])

    def left(self) -> Array:
        """Return the factor of the outputs, float32 (rows of the weight, rank), without the scale."""
        if self.place.kind == "table":
            return _floats(self.down).T
        return _floats(self.up).reshape(self.place.shape[0], self.rank)

    def right(self) -> Array:
        """Return the factor of the inputs, float32 (rank, columns of the weight)."""
        if self.place.kind == "table":
            return _floats(self.up).T
        return _floats(self.down).reshape(self.rank, self.place.shape[1])


@dataclass(frozen=True)
class Adapter:
    """What one adapter changes of a sub-model."""

    name: str
    pairs: tuple[Pair, ...]
    replaced: Tensors
    """Weights that it stores whole, by their keys in the state dict."""
    weight: float = 1.0
    """The factor of its changes."""
    file: Path | None = None

    @property
    def changed(self) -> frozenset[str]:
        """The keys of the weights that it changes."""
        biases = {pair.place.bias for pair in self.pairs if pair.bias is not None and pair.place.bias}
        return frozenset({pair.place.weight for pair in self.pairs} | biases | self.replaced.keys())

    @property
    def parameters(self) -> int:
        """How many numbers it stores."""
        held = [tensor for pair in self.pairs for tensor in (pair.down, pair.up, pair.magnitude, pair.bias)]
        return sum(t.size for t in (*held, *self.replaced.values()) if t is not None)


def _floats(tensor: ir.TensorProtocol) -> Array:
    return array(tensor).astype(np.float32)


def open_adapters(adapters: Adapters | None, submodel: Submodel, weights: Tensors) -> list[Adapter]:
    """Open all ``adapters`` that are for ``submodel``, whose base has ``weights``; see :func:`open_adapter`."""
    if adapters is None:
        return []
    found = adapters.of(submodel.name)
    return [open_adapter(given, folder, submodel, weights, adapters.pickled) for given, folder in found]


def open_adapter(
    given: Given, folder: Path, submodel: Submodel, weights: Tensors, pickled: bool = False
) -> Adapter:
    """Open the adapter in ``folder`` for ``submodel``; its pairs are read once, as they are small, and checked.

    Of tables with a pair PEFT stores a copy too: it counts only where it differs from the base's own of ``weights``.

    Raises:
        CheckpointError: if a file is missing, damaged or elsewhere, or a tensor is missing, extra, of another shape, or not of
            numbers.
        NumbersError: if it changes nothing.
    """
    configuration = read_configuration(folder / CONFIG)
    file = _file(folder, pickled)
    opened = safetensors.open_file(file) if file.suffix == ".safetensors" else torch_file.open_file(file)
    reader = _Reader(given, file, submodel, configuration)
    adapter = reader.placed(opened)
    _check_values(adapter, file)
    paired = {pair.place.weight for pair in adapter.pairs}
    whole = adapter.replaced.items()
    changed = {name: t for name, t in whole if name not in paired or not _copy(t, weights[name])}
    return replace(adapter, replaced=changed)


def _copy(stored: ir.TensorProtocol, own: ir.TensorProtocol) -> bool:
    """Return whether ``stored`` has the values of ``own``, as far as its dtype holds them."""
    kind = stored.dtype.numpy()
    return all(
        np.array_equal(part(stored, rows), part(own, rows).astype(kind)) for rows in stretches(own, PART)
    )


def _file(folder: Path, pickled: bool) -> Path:
    """Return the file of weights in ``folder``; one outside is refused, and so is one in torch's format unless asked for."""
    path = folder / FILE
    if not path.exists() and (folder / PICKLE).exists():
        path = folder / PICKLE
        if not pickled:
            raise CheckpointError(
                f"{PICKLE} is a pickle, which is not read unasked",
                where=str(folder),
                fix="save the adapter as safetensors, or add --adapter-pickle: m4c runs no code from it",
            )
    if not path.exists():
        raise CheckpointError(
            f"there is no {FILE} beside {CONFIG}", where=str(folder), fix="copy the whole adapter"
        )
    if not safetensors.beside(folder / CONFIG, path):
        raise CheckpointError(
            f"{path.name} is a link to a file outside its folder: {path.resolve()}",
            where=str(folder),
            fix="put the file itself there, if you trust it",
        )
    return path


class _Reader:
    """Finds the place of every tensor of one adapter."""

    def __init__(self, given: Given, file: Path, submodel: Submodel, configuration: Configuration) -> None:
        self.given, self.file, self.submodel, self.configuration = given, file, submodel, configuration
        self.places = places(submodel.source)
        self.state = submodel.source.state_dict()
        self.modules = {path for path, _ in submodel.source.named_modules()} | set(self.places)

    def placed(self, opened: Tensors) -> Adapter:
        """Return the adapter, each of whose tensors has a place."""
        roots = ("", *(f"{name}." for name, _ in self.submodel.source.named_children()))
        names = {key: self._renamed(key) for key in opened}
        # trained on one part of the sub-model alone, such as the U-Net: its paths begin there
        root = next(
            (r for r in roots if all(self._module(r + name) in self.modules for name in names.values())), ""
        )
        parts: dict[str, dict[str, ir.TensorProtocol]] = {}
        whole: dict[str, ir.TensorProtocol] = {}
        for key, tensor in opened.items():
            name = root + names[key]
            role = ROLE.fullmatch(name)
            if role is None:
                whole[name] = tensor
            else:
                parts.setdefault(role[1], {})[FACTORS[role[2]]] = tensor
        self._check_targets(root, parts)
        pairs = tuple(self._pair(module, found) for module, found in sorted(parts.items()))
        return Adapter(self.given.name, pairs, self._whole(root, whole, parts), self.given.weight, self.file)

    def _renamed(self, key: str) -> str:
        """Return a key of the file as the sub-model's own checkpoints would have it."""
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        name = re.sub(r"\.modules_to_save\.(default\.)?", ".", name)
        for pattern, replacement in self.submodel.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def _module(self, name: str) -> str:
        """Return the path of the module that a name belongs to."""
        role = ROLE.fullmatch(name)
        return role[1] if role else name.rpartition(".")[0]

    def _check_targets(self, root: str, parts: Mapping[str, Mapping[str, object]]) -> None:
        """Raise unless the pairs are those that the configuration means."""
        wanted = {
            path
            for path, place in self.places.items()
            if path.startswith(root) and self._targeted(path.removeprefix(root), place.in_all_linear)
        }
        wanted |= {f"{path}.out_proj" for path in wanted if f"{path}.q_proj" in self.places}
        if not wanted and not self.configuration.saved:
            raise self._error(
                f"its target_modules {self.configuration.targets!r} name no layer of the model",
                "check that the adapter is for this model",
            )
        self._complain("that no target_modules mean", sorted(set(parts) - wanted))
        needed = {"down", "up"} | ({"magnitude"} if self.configuration.dora else set())
        needed |= {"bias"} if self.configuration.outer_bias else set()
        self._complain(
            "missing",
            [
                f"{path}: {', '.join(sorted(lacking))}"
                for path in sorted(wanted)
                if (lacking := needed - set(parts.get(path, ())))
            ],
        )
        self._complain(
            "that the configuration does not mention",
            [
                f"{path}: {', '.join(sorted(extra))}"
                for path in sorted(parts)
                if (extra := set(parts[path]) - needed)
            ],
        )

    def _targeted(self, path: str, in_all_linear: bool) -> bool:
        return self.configuration.targeted(path, in_all_linear)

    def _pair(self, module: str, found: Mapping[str, ir.TensorProtocol]) -> Pair:
        """Return the pair of a module, whose shapes fit."""
        place, rank = self.places[module], self.configuration.rank_of(module)
        down, up = found["down"], found["up"]
        rows, columns = place.shape if place.kind != "table" else place.shape[::-1]
        for what, tensor, outer, axis in (("A", down, columns, 0), ("B", up, rows, 1)):
            shape = tensor.shape.numpy()
            if len(shape) < 2 or shape[axis] != rank:
                raise self._error(
                    f"{what} of {module} is {list(shape)}, its rank is {rank} in {CONFIG}",
                    "get both files of one training",
                )
            if tensor.size != outer * rank:
                raise self._error(
                    f"{what} of {module} is {list(shape)}, the model wants {outer} and rank {rank}",
                    "check that the adapter was trained on this base model",
                )
        if place.groups > 1 or (self.configuration.dora and place.kind not in ("linear", "packed")):
            what = "a grouped convolution" if place.groups > 1 else f"DoRA of a {place.kind}"
            raise self._error(f"{module} is {what}, which m4c does not adapt", "train it without")
        for what in ("magnitude", "bias"):
            if what in found and found[what].size != place.shape[0]:
                raise self._error(
                    f"the {what} of {module} is {list(found[what].shape)}, it has {place.shape[0]} outputs",
                    "check that the adapter was trained on this base model",
                )
        if "bias" in found and place.bias is None:
            raise self._error(f"{module} has no bias to add to", "train it without lora_bias")
        return Pair(
            place, down, up, self.configuration.scale_of(module), found.get("magnitude"), found.get("bias")
        )

    def _whole(self, root: str, whole: Tensors, parts: Mapping[str, object]) -> dict[str, ir.TensorProtocol]:
        """Return the weights that are stored whole, by their keys in the state dict."""
        saved = self.configuration.saved
        allowed = {}
        for name, tensor in whole.items():
            module = name.rpartition(".")[0]
            kept = any(re.match(rf"(^|.*\.){one}($|\..*)", module.removeprefix(root)) for one in saved)
            bias = self.configuration.bias != "none" and name.endswith("bias")
            if name in self.state and (kept or bias or module in parts):
                allowed[name] = tensor
        self._complain("without a place", sorted(set(whole) - set(allowed)))
        missing = [
            name
            for name in self.state
            if name.startswith(root)
            and any(re.match(rf"(^|.*\.){one}\.[^.]+$", name.removeprefix(root)) for one in saved)
            and name not in allowed
        ]
        self._complain("missing", missing)
        wrong = [
            f"{name}: {list(tensor.shape)} in the adapter, {list(self.state[name].shape)} in the model"
            for name, tensor in allowed.items()
            if tuple(tensor.shape.numpy()) != tuple(self.state[name].shape)
        ]
        self._complain("of another shape", wrong)
        return allowed

    def _complain(self, problem: str, names: Iterable[str]) -> None:
        """Raise if there are names, showing the first few."""
        held = list(names)
        if held:
            more = f"\n    and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
            listed = "\n    ".join(held[:SHOWN])
            raise self._error(
                f"{len(held)} tensor{'s' if len(held) > 1 else ''} {problem}:\n    {listed}{more}",
                "check that the adapter was trained on this base model, and both its files are of one training",
            )

    def _error(self, what: str, fix: str) -> CheckpointError:
        return CheckpointError(f"adapter {self.given.name}: {what}", where=str(self.file), fix=fix)


def _check_values(adapter: Adapter, file: Path) -> None:
    """Raise if a pair holds what is not a number, or if all is zero."""
    acts = bool(adapter.replaced)
    for pair in adapter.pairs:
        named = {"A": pair.down, "B": pair.up, "magnitude": pair.magnitude, "bias": pair.bias}
        for what, tensor in named.items():
            if tensor is not None and not np.isfinite(_floats(tensor)).all():
                raise CheckpointError(
                    f"adapter {adapter.name}: {what} of {pair.place.module} holds values that are not numbers",
                    where=str(file),
                    fix="get a sound adapter",
                )
        acts = acts or pair.magnitude is not None or bool(_floats(pair.up).any() and _floats(pair.down).any())
        acts = acts or (pair.bias is not None and bool(_floats(pair.bias).any()))
    if not acts:
        raise NumbersError(
            f"adapter {adapter.name} does nothing: B is zero everywhere",
            where=str(file),
            fix="train it, or leave it out",
        )
