"""The graphs of a route, opened: what goes in is prepared as the manifest says, what comes out is numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.adapters.contract import adapter_files
from m4c.bundle import GraphRecord, Manifest, host_folder
from m4c.host.prepare import prepare
from m4c.runners import Runner
from m4c.static_cache import open_decoder

Array = np.ndarray

SMALLEST = 1e-12
"""A vector shorter than this has no direction."""


@dataclass(frozen=True)
class Opened:
    """A graph and what runs it."""

    record: GraphRecord
    runner: Runner
    assets: Path
    """The folder of the files that its host needs."""

    def made(self, raw: object) -> Array:
        """Return the first output for ``raw``, from which the manifest tells how the first input is prepared."""
        given, gives = self.record.inputs[0], self.record.outputs[0]
        return self.runner.run({given.name: prepare(given.host, raw, self.assets)})[gives.name]


def open_graphs(
    folder: Path, manifest: Manifest, names: Sequence[str], adapter: str | None = None
) -> list[Opened]:
    """Open graphs of the bundle at ``folder``, with an ``adapter`` if wanted.

    Raises:
        UsageError: if there is no such adapter, or it changes none of the graphs.
        BundleError: if the bundle lacks a graph, or its adapter does not fit.
    """
    files = adapter_files(folder, manifest, names, adapter)
    records = [manifest.graph(name) for name in names]
    return [
        Opened(
            record,
            open_decoder(folder, record, files.get(record.name)),
            host_folder(folder, record.name.partition("/")[0]),
        )
        for record in records
    ]


def unit(vectors: Array) -> Array:
    """Return ``vectors`` (n, width) brought to length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SMALLEST))
