"""Graphs on several targets at once: captured once, judged for each."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from m4c.errors import UsageError
from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports.captured import of_submodel
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import Judged, NotConverted
from m4c.parallel import in_processes
from m4c.progress import Progress
from m4c.selection import selected_submodels
from m4c.targets.legality import runtime_of
from m4c.targets.profile import Target
from m4c.targets.read_tflite import is_tflite

Found = Mapping[str, list[Judged]]
"""The graphs of a subject by the name of a target."""


def across(
    subject: str,
    targets: Sequence[Target],
    progress: Progress,
    preset: str = "m4-nano",
    jobs: int = 1,
    evidence: str = "table",
) -> Found:
    """Return where every graph of ``subject`` runs on each of ``targets``; arguments as of :func:`judged`.

    Raises:
        UsageError: as :func:`judged` does, or if two targets have the same name.
    """
    if len({target.name for target in targets}) < len(targets):
        raise UsageError("two targets have the same name", fix="give each profile a name of its own")
    preset = subject if subject in PRESETS else preset
    names = () if subject in PRESETS else (subject,)
    captured = not names or subject.partition("/")[0] in SUBMODELS
    if len(targets) == 1:
        return {targets[0].name: judged(subject, targets[0], progress, preset, jobs, evidence)}
    if evidence != "table" or not captured:
        return {target.name: _of_file(subject, target, progress, preset, evidence) for target in targets}
    work = partial(of_submodel, names, preset, tuple(targets))
    parts = in_processes(work, selected_submodels(names), progress, jobs)
    return {target.name: [one for part in parts for one in part[target.name]] for target in targets}


def _of_file(subject: str, target: Target, progress: Progress, preset: str, evidence: str) -> list[Judged]:
    """Judge a file or a bundle on one of several targets: one that takes no such file is no mistake."""
    path = Path(subject)
    if path.is_file() and is_tflite(path):
        try:
            runtime_of(target, "tflite")
        except UsageError as error:
            return [NotConverted(path.stem, error.what, error.fix)]
    return judged(subject, target, progress, preset, evidence=evidence)
