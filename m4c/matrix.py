"""Several targets and precisions in one command: a bundle for each, in a folder of its own. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from m4c.bundle import MANIFEST
from m4c.errors import UsageError
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.targets.profile import Target


def variants(
    request: Request, targets: Sequence[Target], precisions: Mapping[str | None, Scheme | None]
) -> dict[str, Request]:
    """Return ``request`` for each of ``targets`` in each of ``precisions``, by the folder of its bundle.

    ``precisions`` has the scheme of each that rounds weights alone; None is a target's own precision. A folder is called by
    what is several: ``edgetpu``, ``int8``, or ``edgetpu-int8``; a single request has the name ``""``.

    Raises:
        UsageError: if two targets have one name.
    """
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--target {name} is given twice", fix="give each target once")
    made: dict[str, Request] = {}
    for target in targets:
        for precision, scheme in precisions.items():
            parts = (
                target.name if len(targets) > 1 else "",
                (precision or "") if len(precisions) > 1 else "",
            )
            made["-".join(filter(None, parts))] = replace(
                request, target=target, precision=precision, scheme=scheme
            )
    return made


def require_folder(out: Path) -> None:
    """Refuse a folder that cannot hold several bundles.

    Raises:
        UsageError: if it is a bundle itself, or a file.
    """
    if (out / MANIFEST).exists() or (out.exists() and not out.is_dir()):
        what = "a file" if out.is_file() else "a bundle"
        raise UsageError(
            f"{out} is {what}, and several bundles are to go into it", fix="give another folder with -o"
        )
