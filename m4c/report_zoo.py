"""``m4c report zoo``: how many operator types the paper's 50 task-specific models need, as stored or measured anew."""

import sys
from pathlib import Path

from m4c.models import SUBMODELS
from m4c.operator_reports.zoo import render
from m4c.operator_reports.zoo.baseline import store, stored
from m4c.operator_reports.zoo.registry import BUILDERS
from m4c.terminal import ProgressBar, show_json, show_table


def report_zoo(form: str, jobs: int, measure: bool, figure: Path | None) -> None:
    """Print the report as ``text``, ``json`` or ``md``; ``measure`` replaces what is stored, ``figure`` is drawn.

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
        show_json(render.to_json(found))
    elif form == "md":
        sys.stdout.write(render.to_markdown(found))
    else:
        show_table(render.to_table(found))
        show_table(render.to_frequencies(found))
