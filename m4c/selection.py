"""What a user selects of a preset: sub-models by name, or single graphs as ``submodel/graph``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from m4c.errors import UsageError
from m4c.models import SUBMODELS, require_submodel

if TYPE_CHECKING:
    from m4c.models.graph import Graph, Submodel

DIMENSIONS = {
    "batch": "inputs at once",
    "length": "phonemes",
    "past": "steps in the cache",
    "sequence": "steps of one call",
    "steps": "frames of a spectrogram",
}
"""Every dimension that a graph of M4 names, and that may so be kept dynamic."""


STEPS = "sequence"
"""The dimension that may have several sizes, each a signature of a TFLite file: a prompt has many steps at once."""


def require_dimensions(names: Iterable[str]) -> frozenset[str]:
    """Return the dimensions of these names.

    Raises:
        UsageError: if no graph has a dimension of one of them.
    """
    for name in names:
        if name not in DIMENSIONS:
            known = ", ".join(f"{key} ({meaning})" for key, meaning in DIMENSIONS.items())
            raise UsageError(f"no graph has a dimension {name!r}", fix=f"choose from: {known}")
    return frozenset(names)


def require_sizes(texts: Iterable[str], dynamic: frozenset[str]) -> tuple[tuple[str, int], ...]:
    """Return dimensions and their sizes, in order, of texts such as ``past=511``; none of them may be ``dynamic``.

    :data:`STEPS` may have several.

    Raises:
        UsageError: if no graph has such a dimension, or a text has no number.
    """
    found: set[tuple[str, int]] = set()
    for text in texts:
        name, _, size = text.partition("=")
        require_dimensions([name])
        if not (size.isascii() and size.isdigit()):
            raise UsageError(f"--size {text} has no number", fix=f"write it as {name}=16")
        found.add((name, int(size)))
        if name in dynamic or (name != STEPS and len({size for held, size in found if held == name}) > 1):
            raise UsageError(f"{name} cannot be two things at once", fix=f"give {name} once")
    return tuple(sorted(found))


def selected_file(names: tuple[str, ...], alone: bool) -> Path | None:
    """Return the ONNX file that a selection names, if it names one; ``alone``: nothing is given that a preset has.

    Raises:
        UsageError: if there is no such file, or more is asked for than a file has.
    """
    files = [name for name in names if name.endswith(".onnx")]
    if not files:
        return None
    if len(names) > 1 or not alone:
        raise UsageError(
            "an .onnx file is exported alone, with the weights and dimensions it has",
            fix="leave out the rest",
        )
    if not Path(files[0]).is_file():
        raise UsageError(f"there is no file {files[0]}", fix="give the path of an ONNX file")
    return Path(files[0])


def selected_submodels(names: tuple[str, ...]) -> list[str]:
    """Return the sub-models that a selection touches, in M4's order; an empty selection is all of them.

    Raises:
        UsageError: if there is no such sub-model.
    """
    wanted = {name.partition("/")[0] for name in names}
    for name in wanted:
        require_submodel(name)
    return [name for name in SUBMODELS if not wanted or name in wanted]


def selected_graphs(names: tuple[str, ...], submodel: "Submodel", dialect: str = "") -> "list[Graph]":
    """Return the graphs of a sub-model, of those for ``dialect``, that a selection names; its bare name means all of them.

    Raises:
        UsageError: if it has no such graph.
    """
    exact = [name for name in names if name.startswith(f"{submodel.name}/")]
    known = {graph.name: graph for graph in submodel.graphs_for(dialect)}
    for name in exact:
        if name not in known:
            raise UsageError(f"there is no graph {name!r}", fix=f"choose from: {', '.join(known)}")
    return [known[name] for name in known if not exact or submodel.name in names or name in exact]
