"""Baselines: figures in a folder under version control, one file a subject and target."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from m4c.errors import UsageError
from m4c.operator_reports.gate.figures import Figures, from_text, names, to_text


def file_of(folder: Path, subject: str, target: str) -> Path:
    """Return where in ``folder`` the baseline of a subject on a target is; ``folder`` may be the file itself."""
    return folder if folder.suffix == ".json" else folder / f"{subject}.{target}.json"


def read(folder: Path, subject: str, target: str) -> Figures:
    """Return the baseline of a subject on a target.

    Raises:
        UsageError: if there is none, it is damaged, or it is of another schema, target or subject.
    """
    path = file_of(folder, subject, target)
    if not path.is_file():
        raise UsageError(
            f"there is no baseline of {subject} on {target}",
            where=str(path),
            fix="write it with --update-baseline, and commit it",
        )
    try:
        figures = from_text(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UsageError("the baseline is no text", where=str(path), fix="write it again") from error
    for what, held, wanted in (
        ("target", figures.target, target),
        ("subject", figures.subject, subject),
    ):
        if held != wanted:
            raise UsageError(
                f"the baseline is of the {what} {held}, the gate is on {wanted}",
                where=str(path),
                fix=f"give the baseline of {wanted}, or write it with --update-baseline",
            )
    return figures


def write(folder: Path, figures: Figures, scope: Sequence[str]) -> Path:
    """Write a baseline and return where it is; of a part of a preset (``scope``) the rest stays as it was stored.

    Raises:
        UsageError: if what is there already is of something else, or damaged.
    """
    path = file_of(folder, figures.subject, figures.target)
    if scope and path.is_file():
        before = read(folder, figures.subject, figures.target).graphs
        inside = set(names(before, scope))
        kept = {name: graph for name, graph in before.items() if name not in inside}
        figures = dataclasses.replace(figures, graphs={**kept, **figures.graphs})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_text(figures), "utf-8")
    return path
