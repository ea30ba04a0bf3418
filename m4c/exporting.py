"""Exports, and those that are made once more, as the command line shows them. Imports torch only when something is compiled."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from m4c.bundle import Manifest
from m4c.compile import compile_bundle
from m4c.disk import require_disk, room
from m4c.errors import M4CError, UsageError
from m4c.matrix import require_folder
from m4c.memory_limit import limited, size
from m4c.rebuild import Beside, rebuild
from m4c.recipe import subjects
from m4c.request import Request
from m4c.terminal import ProgressBar, show_bundle, show_bundles, show_json

if TYPE_CHECKING:
    from m4c.resources import Estimate

Made: TypeAlias = "Manifest | Estimate | M4CError"
"""A bundle, what it would need, or why there is none."""


@dataclass(frozen=True, slots=True)
class How:
    """How an export is made, beside what it is."""

    jobs: int = 0
    max_rss: str | None = None
    dry_run: bool = False
    store: str | None = None
    executor: str | None = None
    """A cluster whose workers compile."""
    as_json: bool = False


def export_bundles(wanted: Mapping[str, Request], out: Path, how: How) -> None:
    """Export each of ``wanted`` into the folder of its name in ``out``; a single one, without a name, becomes ``out``.

    What ends in an error keeps no other from being made.

    Raises:
        UsageError: if there is an executor and no store, by which its workers hand on what they make, or if ``out`` is a
            bundle and several are to go into it.
        M4CError: at the end, the error of the highest exit code.
    """
    if how.executor and not how.store:
        raise UsageError(
            "the workers of a cluster hand on what they make through a store",
            fix="add --store with a folder or URL that all of them reach",
        )
    alone = wanted.get("")
    if alone is None:
        require_folder(out)
    if how.executor and how.store and not how.dry_run:
        _fill(how.store, how.executor, list(wanted.values()))
    if alone is not None:
        made = _exported(alone, out, how)
        if how.as_json:
            show_json(_plain(made, out))
        elif isinstance(made, Manifest):
            show_bundle(made, out)
        return
    done: dict[str, Made] = {}
    for name, request in wanted.items():
        sys.stderr.write(f"{name} ({len(done) + 1} of {len(wanted)})\n")
        try:
            done[name] = _exported(request, out / name, how)
        except M4CError as error:
            done[name] = error
    if how.as_json:
        show_json({"bundles": {name: _plain(made, out / name) for name, made in done.items()}})
    else:
        show_bundles({n: made for n, made in done.items() if isinstance(made, Manifest | M4CError)}, out)
    failed = [made for made in done.values() if isinstance(made, M4CError)]
    if failed:
        raise max(failed, key=lambda error: error.exit_code)


def _fill(store: str, executor: str, requests: Sequence[Request]) -> None:
    """Let the workers of a cluster compile what ``store`` lacks of all ``requests``."""
    from m4c.cluster import fill

    with ProgressBar(sum(len(subjects(request)) for request in requests)) as progress:
        count = fill(store, executor, requests, progress)
    sys.stderr.write(f"{count} compiled at {executor}\n")


def _exported(request: Request, out: Path, how: How) -> "Manifest | Estimate":
    """Compile with a progress bar on stderr; if nothing is to be written, return what it would need."""
    limit, jobs = size(how.max_rss) if how.max_rss else None, how.jobs
    if limit or how.dry_run or not room(request, out):
        from m4c.resources import estimate

        found = estimate(request, jobs, limit)
        if limit or how.dry_run:
            sys.stderr.write(f"{found}\n")
        require_disk(out, found.disk_bytes)
        jobs = found.jobs
        if how.dry_run:
            return found
    lines: list[str] = []
    with limited(limit), ProgressBar(len(subjects(request))) as progress:
        manifest = compile_bundle(request, out, progress, jobs, how.store, lines.append)
    sys.stderr.writelines(f"{line}\n" for line in lines)
    return manifest


def _plain(made: "Made", out: Path) -> dict[str, object]:
    """Return what a machine is told of an export."""
    if isinstance(made, M4CError):
        return {"bundle": str(out), "exit_code": made.exit_code, "error": str(made)}
    table = dataclasses.asdict(made)
    return {"bundle": str(out), **table} if isinstance(made, Manifest) else table


def rebuild_bundle(manifest: Manifest, bundle: Path, beside: Beside, jobs: int) -> None:
    """Compile the bundle at ``bundle`` once more with a progress bar, and compare every byte."""
    with ProgressBar(len(manifest.submodels)) as progress:
        count = rebuild(manifest, bundle, beside, progress, jobs)
    sys.stderr.write(f"compiled again: all {count} files have the same bytes\n")
