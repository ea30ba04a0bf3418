"""Path 2: an encoder and the text encoder; what an input is about, or which of several a text is about."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m4c.bundle import Manifest
from m4c.errors import UsageError
from m4c.routes.opened import open_graphs, unit
from m4c.tasks import Task

Scores = dict[str, float]
"""By label or file; they add up to 1."""


def classify(
    folder: Path,
    manifest: Manifest,
    task: Task,
    given: Path,
    labels: Sequence[str],
    adapter: str | None = None,
) -> Scores:
    """Return how likely each of ``labels`` is for the input in the file ``given``, the likeliest first.

    Raises:
        UsageError: if the file cannot be used, or there is no label, or one twice.
        BundleError: if the bundle lacks a graph of the route.
    """
    names = [label.strip() for label in labels if label.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"the labels are {', '.join(names) or 'none'}", fix="give different labels, with commas between"
        )
    encoder, reader = open_graphs(folder, manifest, task.graphs, adapter)
    found = unit(encoder.made(given))
    texts = np.concatenate([reader.made(task.prompt.format(label=name)) for name in names])
    return _ordered(names, (found @ texts.T)[0])


def retrieve(
    folder: Path, manifest: Manifest, task: Task, given: Sequence[Path], text: str, adapter: str | None = None
) -> Scores:
    """Return how likely each of the files ``given`` is meant by ``text``, the likeliest first.

    Raises:
        UsageError: if a file cannot be used.
        BundleError: if the bundle lacks a graph of the route.
    """
    encoder, reader = open_graphs(folder, manifest, task.graphs, adapter)
    found = np.concatenate([unit(encoder.made(path)) for path in given])
    wanted = reader.made(task.prompt.format(label=text))
    return _ordered([str(path) for path in given], (found @ wanted.T)[:, 0])


def _ordered(names: Sequence[str], scores: np.ndarray) -> Scores:
    """Return the softmax of ``scores`` by name, the largest first."""
    likely = np.exp(scores - scores.max())
    likely = likely / likely.sum()
    return {names[i]: float(likely[i]) for i in np.argsort(-likely, kind="stable")}
