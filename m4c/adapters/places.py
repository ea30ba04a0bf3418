"""Where an adapter may change a sub-model: its linear layers, convolutions and tables, and the packed rows of attentions.

Queries, keys and values that a model packs into one ``in_proj_weight`` count as modules ``q_proj``, ``k_proj`` and ``v_proj``
beside it; the attention itself stands for all rows, as PEFT names the pair of an ``nn.MultiheadAttention``.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

PACKED = "in_proj_weight"
PARTS = ("q_proj", "k_proj", "v_proj")
"""The rows of a packed projection, in order, by the names that they have where they are not packed."""

Kind = Literal["linear", "packed", "convolution", "table"]


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix of a sub-model: rows of the weight of one module."""

    module: str
    kind: Kind
    weight: str
    """Its key in the state dict."""
    shape: tuple[int, int]
    """Outputs and inputs; of a table, its rows and their width. The kernel of a convolution counts as inputs."""
    first: int = 0
    """The row of the weight that it begins with."""
    bias: str | None = None
    """The key of its bias, if it has one."""
    in_all_linear: bool = False
    """Whether PEFT's ``all-linear`` means it."""
    groups: int = 1


def places(source: nn.Module) -> dict[str, Place]:
    """Return every place of ``source`` by the path of its module."""
    output = _output_layer(source)
    found: dict[str, Place] = {}
    for path, module in source.named_modules():
        match module:
            case nn.Linear():
                shape = (module.out_features, module.in_features)
                place = Place(path, "linear", f"{path}.weight", shape, in_all_linear=module is not output)
            case nn.Embedding():
                place = Place(path, "table", f"{path}.weight", (module.num_embeddings, module.embedding_dim))
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                outputs, *rest = module.weight.shape
                place = Place(
                    path, "convolution", f"{path}.weight", (outputs, math.prod(rest)), groups=module.groups
                )
            case _ if isinstance(getattr(module, PACKED, None), nn.Parameter):
                found |= _packed(path, module)
                continue
            case _:
                continue
        bias = f"{path}.bias" if getattr(module, "bias", None) is not None else None
        found[path] = replace(place, bias=bias)
    return found


def _packed(path: str, attention: nn.Module) -> dict[str, Place]:
    """Return the three parts of a packed projection, and the whole under the path of its module."""
    rows, width = attention.get_parameter(PACKED).shape
    each = rows // len(PARTS)
    key = f"{path}.{PACKED}"
    whole = {path: Place(path, "packed", key, (rows, width))}
    return whole | {
        f"{path}.{name}": Place(f"{path}.{name}", "packed", key, (each, width), number * each)
        for number, name in enumerate(PARTS)
    }


def _output_layer(source: nn.Module) -> nn.Module | None:
    """Return the layer that scores tokens, which ``all-linear`` leaves out; only models of transformers tell it."""
    tell = getattr(source, "get_output_embeddings", None)
    return tell() if tell is not None else None
