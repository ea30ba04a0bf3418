"""Whether there is room for a bundle on the disk. Imports no torch."""

import shutil
from pathlib import Path

from m4c.errors import UsageError
from m4c.recipe import files
from m4c.request import Request

SMALL, LARGE = 1 << 30, 50 << 30
"""Bytes on disk that all of m4-nano, and all of m4, never reach in any precision."""

FROM_PACKED = 9
"""Bytes that one of a checkpoint can become: 4-bit weights in float32, and a little."""


def room(request: Request, out: Path) -> bool:
    """Return whether so much disk is free that nobody needs to count: more than the preset, or what is given, can become."""
    given = sum(
        file.stat().st_size for path in (request.weights, request.model) if path for file in files(path)
    )
    whole = LARGE if not given and request.preset != "m4-nano" else SMALL
    return _free(out) > whole + FROM_PACKED * given


def require_disk(out: Path, needed: int) -> None:
    """Raise unless ``needed`` bytes are free where ``out`` will be.

    Raises:
        UsageError: if there is less.
    """
    free = _free(out)
    if free < needed:
        raise UsageError(
            f"the export needs {needed / 1e6:.0f} MB of disk, {free / 1e6:.0f} MB are free",
            where=str(out),
            fix="free some, or give -o a folder on another disk",
        )


def _free(out: Path) -> int:
    """Return the free bytes where ``out`` will be; what an earlier export left there counts as free."""
    final = out.resolve()
    folder = next(parent for parent in final.parents if parent.is_dir())
    left = final.parent.glob(f"{final.name}.partial-*/**/*") if final.parent.is_dir() else ()
    return shutil.disk_usage(folder).free + sum(path.stat().st_size for path in left if path.is_file())
