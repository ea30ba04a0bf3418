"""Sub-models compiled by the workers of a Dask cluster, who hand on what they made through a store that all of them reach.

Afterwards the store has everything, and an export takes it from there as ever. Checkpoints and samples are read where a worker
is, by the paths of the request.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m4c.errors import UsageError
from m4c.progress import Progress, Silent
from m4c.recipe import Hashes, key, libraries, own_digest, recipe, subjects
from m4c.request import Request
from m4c.store import Recipe, memory, open_store

SCHEME = "dask://"

CONNECT_SECONDS = 10

_ALONE = threading.Lock()
"""torch captures one model at a time in a process; a worker may have several threads."""


def fill(where: str, executor: str, requests: Sequence[Request], progress: Progress) -> int:
    """Let the workers of the cluster at ``executor`` compile what the store at ``where`` lacks; return how much that was.

    Raises:
        UsageError: if there is no such cluster, dask.distributed is not installed, or a worker has another m4c or library.
        M4CError: what went wrong in the first sub-model that failed.
    """
    store, known = open_store(where), Hashes(memory(where))
    wanted: dict[str, tuple[Request, str, Recipe]] = {}
    for request in requests:
        for name in subjects(request):
            made = recipe(request, name, known)
            if not store.has(key(made)):
                wanted[key(made)] = request, name, made
    with _client(executor) as client:
        futures = {
            client.submit(work, where, *item, key=f"m4c-{name}", pure=False): item[1]
            for name, item in wanted.items()
        }
        from distributed import as_completed

        for future in as_completed(futures):
            future.result()
            progress.completed(futures[future])
    return len(wanted)


def work(where: str, request: Request, name: str, made: Recipe) -> None:
    """Compile a sub-model on a worker and keep it in the store at ``where``.

    Raises:
        UsageError: if the worker has another m4c or other libraries than whoever asks.
    """
    mine = {"m4c": own_digest(), **libraries()}
    other = [tool for tool, version in mine.items() if made[tool] != version]
    if other:
        raise UsageError(
            f"a worker has another {' and '.join(other)}",
            where=name,
            fix="install the same versions on all workers",
        )
    from m4c.assemble import compile_subject

    with _ALONE, tempfile.TemporaryDirectory(prefix="m4c-") as workspace:
        folder = Path(workspace)
        record = compile_subject(request, folder, name, Silent())
        open_store(where).keep(key(made), made, record, folder)


@contextmanager
def _client(executor: str) -> Iterator[Any]:
    """Connect to a cluster; its errors about connections become ours."""
    if not executor.startswith(SCHEME):
        raise UsageError(f"there is no executor {executor}", fix=f"give {SCHEME}HOST:PORT")
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("dask.distributed is not installed", fix="pip install m4c[cluster]") from error
    try:
        client = Client(f"tcp://{executor.removeprefix(SCHEME)}", timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"there is no cluster at {executor}: {error}", fix="start one with dask scheduler and dask worker"
        ) from error
    try:
        yield client
    finally:
        client.close()
