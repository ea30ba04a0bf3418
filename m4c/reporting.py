"""Reports as the command line shows them: on targets, on the zoo, on a node."""

import sys
from pathlib import Path

from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports import explain
from m4c.operator_reports.judged import judged
from m4c.operator_reports.render_placement import notes, reasons, summary, to_json, to_markdown
from m4c.operator_reports.zoo import render as render_zoo
from m4c.operator_reports.zoo.baseline import store, stored
from m4c.operator_reports.zoo.registry import BUILDERS
from m4c.progress import Silent
from m4c.targets.profile import load_target
from m4c.terminal import ProgressBar, show_json, show_table


def report_placement(subject: str, target: str, evidence: str, preset: str, jobs: int, form: str) -> None:
    """Show which nodes of ``subject`` run on ``target``, in the form ``text``, ``json`` or ``md``."""
    profile = load_target(target)
    captured = len(SUBMODELS) if subject in PRESETS else int(subject.partition("/")[0] in SUBMODELS)
    if captured:
        with ProgressBar(captured) as progress:
            found = judged(subject, profile, progress, preset, jobs, evidence)
    else:
        found = judged(subject, profile, Silent(), evidence=evidence)
    if form == "json":
        show_json(to_json(found, profile.name))
        return
    if form == "md":
        sys.stdout.write(to_markdown(found, profile.name))
        return
    show_table(summary(found, profile.name))
    why = reasons(found)
    if why is not None:
        show_table(why)
    for line in notes(found):
        sys.stdout.write(f"{line}\n")


def report_zoo(form: str, jobs: int, measure: bool, figure: Path | None) -> None:
    """Show how many operator types the paper's 50 models need, as ``text``, ``json`` or ``md``.

    ``measure`` replaces what is stored, ``figure`` is drawn.

    Raises:
        UsageError: if the picture cannot be drawn.
    """
    if measure:
        from m4c.operator_reports.zoo.measure import measured

        with ProgressBar(len(BUILDERS) + len(SUBMODELS)) as progress:
            store(measured(progress, jobs))
    found = stored()
    if figure is not None:
        from m4c.operator_reports.zoo.figure import draw

        draw(found, figure)
    if form == "json":
        show_json(render_zoo.to_json(found))
    elif form == "md":
        sys.stdout.write(render_zoo.to_markdown(found))
    else:
        show_table(render_zoo.to_table(found))
        show_table(render_zoo.to_frequencies(found))


def explain_node(bundle: Path, name: str, target: str | None, as_json: bool) -> None:
    """Show where the nodes called ``name`` come from and whether they run on ``target``, or on what they were built for."""
    steps = explain.explain(bundle, name, load_target(target) if target else None)
    if as_json:
        show_json(explain.to_json(steps, name))
        return
    for line in explain.lines(steps):
        sys.stdout.write(f"{line}\n")
