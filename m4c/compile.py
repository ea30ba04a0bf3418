"""The driver: every sub-model is taken from where it was finished before, or compiled; all of it is a bundle with a manifest.

Imports no torch: a bundle of which nothing changed is there without it.
"""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from pathlib import Path

from m4c import __version__, tasks
from m4c.bundle import Manifest, SubmodelRecord, write_manifest
from m4c.parallel import in_processes
from m4c.progress import Progress
from m4c.recipe import Hashes, key, recipe, request_key, stated, subjects
from m4c.request import Request
from m4c.staging import read_finished, staged, write_finished
from m4c.store import Recipe, Store, memory, open_store

TOOLS = ("ai-edge-litert", "onnx_ir", "onnxruntime", "onnxscript", "torch", "transformers", "diffusers")


def compile_bundle(
    request: Request,
    out: Path,
    progress: Progress,
    jobs: int = 1,
    store: str | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Compile what ``request`` asks for into a bundle at ``out``, which appears only when it is complete and verified.

    Sub-models that ``store`` has are taken from there, and what is compiled is kept there; ``told`` gets a line for each that
    says which and why.
    """
    with staged(out, request_key(request, out)) as folder:
        names = subjects(request)
        kept = _Kept(open_store(store), request, names, store) if store else None
        records = {}
        for name in names:
            record = _finished(name, folder, out, kept, told)
            if record is not None:
                records[name] = record
                _tell_done(record, progress)
        missing = [name for name in names if name not in records]
        work = partial(_compile, request, folder, store, kept.recipes if kept else {})
        records |= zip(missing, in_processes(work, missing, progress, jobs), strict=True)
        submodels = tuple(records[name] for name in names)
        manifest = Manifest(
            preset=None if request.model else request.preset,
            target=request.target.name,
            tools={"m4c": __version__, **{tool: importlib.metadata.version(tool) for tool in TOOLS}},
            submodels=submodels,
            routes=tasks.routes({graph.name for submodel in submodels for graph in submodel.graphs}),
            recipe=stated(request),
        )
        write_manifest(manifest, folder)
    return manifest


class _Kept:
    """What a store has of a request."""

    def __init__(self, store: Store, request: Request, names: list[str], where: str) -> None:
        """Work out the recipe of each sub-model."""
        known = Hashes(memory(where))
        self.store = store
        self.recipes: dict[str, Recipe] = {name: recipe(request, name, known) for name in names}


def _finished(
    name: str, folder: Path, out: Path, kept: _Kept | None, told: Callable[[str], None]
) -> SubmodelRecord | None:
    """Return a sub-model that an earlier export into ``folder`` completed, or that is kept, None if it is to be compiled."""
    record = read_finished(folder, name)
    if record is not None or kept is None:
        return record
    made = kept.recipes[name]
    record = kept.store.find(key(made), folder, out)
    if record is None:
        changed = kept.store.changed(name, made)
        told(
            f"{name}: compiled, "
            + (f"another {' and '.join(changed)}" if changed else "not in the store yet")
        )
        return None
    told(f"{name}: taken from the store")
    write_finished(folder, record)
    return record


def _tell_done(record: SubmodelRecord, progress: Progress) -> None:
    """Let the bar count a sub-model that is there already."""
    for graph in record.graphs:
        progress.finished(graph.name)
    progress.completed(record.name)


def _compile(
    request: Request,
    folder: Path,
    store: str | None,
    recipes: dict[str, Recipe],
    name: str,
    progress: Progress,
) -> SubmodelRecord:
    """Compile a sub-model, or the ONNX file of the request, into ``folder``, and keep it."""
    from m4c.assemble import compile_subject

    record = compile_subject(request, folder, name, progress)
    write_finished(folder, record)
    if store is not None:
        open_store(store).keep(key(recipes[name]), recipes[name], record, folder)
    return record
