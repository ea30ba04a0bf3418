"""Exports, and those that are made once more, as the command line shows them. Imports torch only when something is compiled."""

import dataclasses
import sys
from pathlib import Path

from m4c.bundle import Manifest
from m4c.compile import compile_bundle
from m4c.disk import require_disk, room
from m4c.errors import UsageError
from m4c.memory_limit import limited, size
from m4c.rebuild import Beside, rebuild
from m4c.recipe import subjects
from m4c.request import Request
from m4c.terminal import ProgressBar, show_bundle, show_json


def export_bundle(
    request: Request,
    out: Path,
    jobs: int,
    max_rss: str | None,
    dry_run: bool,
    store: str | None,
    executor: str | None,
    as_json: bool,
) -> None:
    """Compile with a progress bar on stderr, then show the bundle on stdout; ``dry_run``: show what that needs alone.

    What ``store`` gives and what it lacks is told on stderr. With an ``executor``, the workers of that cluster compile.

    Raises:
        UsageError: if there is an executor and no store, by which its workers hand on what they make.
    """
    if executor and not store:
        raise UsageError(
            "the workers of a cluster hand on what they make through a store",
            fix="add --store with a folder or URL that all of them reach",
        )
    limit = size(max_rss) if max_rss else None
    if limit or dry_run or not room(request, out):
        from m4c.resources import estimate

        found = estimate(request, jobs, limit)
        if limit or dry_run:
            sys.stderr.write(f"{found}\n")
        require_disk(out, found.disk_bytes)
        jobs = found.jobs
        if dry_run:
            if as_json:
                show_json(dataclasses.asdict(found))
            return
    if executor and store:
        from m4c.cluster import fill

        with ProgressBar(len(subjects(request))) as progress:
            count = fill(store, executor, [request], progress)
        sys.stderr.write(f"{count} compiled at {executor}\n")
    lines: list[str] = []
    with limited(limit), ProgressBar(len(subjects(request))) as progress:
        manifest = compile_bundle(request, out, progress, jobs, store, lines.append)
    sys.stderr.writelines(f"{line}\n" for line in lines)
    if as_json:
        show_json({"bundle": str(out), **dataclasses.asdict(manifest)})
    else:
        show_bundle(manifest, out)


def rebuild_bundle(manifest: Manifest, bundle: Path, beside: Beside, jobs: int) -> None:
    """Compile the bundle at ``bundle`` once more with a progress bar, and compare every byte."""
    with ProgressBar(len(manifest.submodels)) as progress:
        count = rebuild(manifest, bundle, beside, progress, jobs)
    sys.stderr.write(f"compiled again: all {count} files have the same bytes\n")
