"""Where the values of an artifact come from: the module and the ONNX operator that each was lowered from.

That is kept beside the artifact, which has names of values alone. A TFLite file has more values than the model: what an
emit function made on the way is named after the result, with a suffix, and what is in another layout has ``@`` and the order of
its axes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m4c.errors import BundleError
from m4c.json_file import read_json
from m4c.layouts import MARK

if TYPE_CHECKING:
    import onnx_ir as ir

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators that stand for the value that they convert."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a value was lowered from."""

    value: str
    """The name of the value in the model."""
    operator: str
    """The ONNX operator that made it, with its domain where that is not ONNX's own."""
    module: str
    """The module that the operator was captured from, or the operator's own name."""


Origins = Mapping[str, Origin]
"""By the names of the model's values."""


def origins_of(model: "ir.Model") -> Origins:
    """Return where every value of the main graph of ``model`` comes from.

    A conversion that is named after the value that it converts is left out: :func:`origin` finds that value.
    """
    made = [(value.name, node) for node in model.graph for value in node.outputs if value.name]
    found = {name: _origin(name, node) for name, node in made if node.op_type not in CONVERSIONS}
    for name, node in made:
        if origin(name, found) is None:
            found[name] = _origin(name, node)
    return found


def _origin(name: str, node: "ir.Node") -> Origin:
    # Imported here because onnx_ir takes half a second, and what reads origins needs none of it.
    from m4c.model import module_path, operator

    return Origin(name, operator(node), module_path(_told(node)))


def _told(node: "ir.Node") -> "ir.Node":
    """Return the node itself, or of a conversion the one that made what it converts."""
    while node.op_type in CONVERSIONS:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None:
            break
        node = before
    return node


def origin(name: str, origins: Origins) -> Origin | None:
    """Return where the value ``name`` of an artifact comes from: the value itself, or the one that it is named after."""
    return next((origins[part] for part in _shorter(name) if part in origins), None)


def _shorter(name: str) -> Iterator[str]:
    """Yield ``name``, then what is left of it without its last suffix or layout, and so on."""
    while name:
        yield name
        name = name[: max(name.rfind("."), name.rfind(MARK), 0)]


def write_origins(path: Path, signatures: Mapping[str, Origins]) -> None:
    """Write the origins of the values of each signature: by module, then by operator. Equal origins give equal bytes."""
    tables: dict[str, dict[str, dict[str, list[str]]]] = {}
    for signature, origins in signatures.items():
        table = tables.setdefault(signature, {})
        for name, one in origins.items():
            table.setdefault(one.module, {}).setdefault(one.operator, []).append(name)
    path.write_text(json.dumps(tables, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


def read_origins(path: Path) -> Mapping[str, Origins]:
    """Return the origins of the values of each signature.

    Raises:
        BundleError: if the file is damaged.
    """
    try:
        tables = read_json(path)
    except ValueError as error:
        raise BundleError(
            f"the table of origins is damaged: {error}", where=str(path), fix="export again"
        ) from error
    return {
        signature: {
            name: Origin(name, kind, module)
            for module, kinds in table.items()
            for kind, names in kinds.items()
            for name in names
        }
        for signature, table in tables.items()
    }
