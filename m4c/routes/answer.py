"""Path 1: something is embedded, projected into the backbone's prompt, and the backbone tells of it."""

from pathlib import Path

from m4c.bundle import Manifest
from m4c.routes.generate import Generated, generate
from m4c.routes.opened import open_graphs, unit
from m4c.tasks import SLOT, WRITER, Task


def answer(
    folder: Path,
    manifest: Manifest,
    task: Task,
    given: Path,
    text: str = "",
    max_new_tokens: int = 64,
    adapter: str | None = None,
) -> Generated:
    """Return what the backbone says of the file ``given``, asked by the task's prompt with ``text`` in it.

    Raises:
        UsageError: if the file cannot be used.
        BundleError: if the bundle lacks a graph of the route.
    """
    mine = [name for name in task.graphs if name not in WRITER]
    encoder, projection = open_graphs(folder, manifest, mine)
    vector = unit(encoder.made(given))
    prompt = projection.runner.run({projection.record.inputs[0].name: vector})[
        projection.record.outputs[0].name
    ]
    before, after = task.prompt.split(SLOT)
    return generate(
        folder, manifest, before, max_new_tokens, adapter, media=prompt, after=after.format(text=text)
    )
