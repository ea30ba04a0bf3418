"""Reports as the command line shows them: on targets, on the zoo, on a node."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.table import Table

from m4c.errors import GateError, UsageError
from m4c.models import PRESETS, SUBMODELS
from m4c.operator_reports import explain, render_budget, render_latency
from m4c.operator_reports.across import Found, across
from m4c.operator_reports.budget import planned, price
from m4c.operator_reports.coverage import GraphOperators
from m4c.operator_reports.latency import submodels_called, timed, with_figures
from m4c.operator_reports.page_data import page_data
from m4c.operator_reports.placement import Judged
from m4c.operator_reports.render_page import to_html
from m4c.operator_reports.render_placement import (
    notes,
    reasons,
    summary,
    to_json,
    to_json_of_many,
    to_markdown,
)
from m4c.operator_reports.zoo import placed, render_placed, render_scaling
from m4c.operator_reports.zoo import render as render_zoo
from m4c.operator_reports.zoo.baseline import store, stored
from m4c.operator_reports.zoo.registry import BUILDERS
from m4c.operator_reports.zoo.scaling import store_scaling, stored_scaling
from m4c.progress import Silent
from m4c.targets.profile import Target, load_target, names
from m4c.terminal import ProgressBar, show_json, show_table


def report_placement(
    subject: str, targets: tuple[str, ...], evidence: str, preset: str, jobs: int, form: str, out: Path | None
) -> None:
    """Show which nodes of ``subject`` run on each of ``targets``, in the form ``text``, ``json``, ``md`` or ``html``.

    ``all`` stands for every target that comes with m4c; an HTML page is written to ``out`` if that is given.

    Raises:
        UsageError: if the page cannot be written.
    """
    profiles = tuple(map(load_target, names() if "all" in targets else dict.fromkeys(targets)))
    found = placements(subject, profiles, evidence, preset, jobs)
    if form == "html":
        page = to_html(page_data(subject, profiles, found, stored() if subject in PRESETS else None))
        _write(page, out)
    elif form == "json":
        pages = [to_json(graphs, name) for name, graphs in found.items()]
        show_json(pages[0] if len(pages) == 1 else to_json_of_many(pages))
    elif form == "md":
        sys.stdout.write("\n".join(to_markdown(graphs, name) for name, graphs in found.items()))
    else:
        for name, graphs in found.items():
            _show_placement(graphs, name)


def _show_placement(found: Sequence[Judged], target: str) -> None:
    """Show the graphs on a target as tables, then what no table has."""
    show_table(summary(found, target))
    why = reasons(found)
    if why is not None:
        show_table(why)
    for line in notes(found):
        sys.stdout.write(f"{line}\n")


def _write(page: str, out: Path | None) -> None:
    """Write a page to a file, or to stdout."""
    if out is None:
        sys.stdout.write(page)
        return
    try:
        out.write_text(page, "utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write the page: {error.strerror}", where=str(out), fix="give the path of a file"
        ) from error
    sys.stderr.write(f"{out}: {out.stat().st_size / 1e6:.2f} MB\n")


def placements(subject: str, targets: Sequence[Target], evidence: str, preset: str, jobs: int) -> Found:
    """Return where every graph of ``subject`` runs, with a progress bar on stderr where something is captured."""
    captured = len(SUBMODELS) if subject in PRESETS else int(subject.partition("/")[0] in SUBMODELS)
    with ProgressBar(captured) if captured else nullcontext(Silent()) as progress:
        return across(subject, targets, progress, preset, jobs, evidence)


def report_zoo(form: str, jobs: int, measure: bool, figure: Path | None) -> None:
    """Show how many operator types the paper's 50 models need, as ``text``, ``json`` or ``md``.

    ``measure`` replaces what is stored, where the models run too; the growth is drawn into ``figure``, and the use of the
    types beside it.

    Raises:
        UsageError: if the picture cannot be drawn.
    """
    if measure:
        from m4c.operator_reports.zoo.measure import measured

        with ProgressBar(len(BUILDERS) + len(SUBMODELS)) as progress:
            counts, runs = measured(progress, jobs)
        store(counts)
        placed.store(runs)
    found = stored()
    if figure is not None:
        from m4c.operator_reports.zoo.figure import draw

        sys.stderr.write(f"{figure}, {draw(found, figure)}\n")
    _show(
        form,
        lambda: render_zoo.to_json(found),
        lambda: render_zoo.to_markdown(found),
        lambda: [render_zoo.to_table(found), render_zoo.to_frequencies(found)],
    )


def report_zoo_on(targets: tuple[str, ...], form: str, figure: Path | None) -> None:
    """Show what becomes of the paper's 50 models, and of M4's graphs, on ``targets``, as ``text``, ``json`` or ``md``.

    Raises:
        UsageError: if a target is not among those that were asked, or the picture cannot be drawn.
    """
    found = placed.stored()
    chosen = found.targets if "all" in targets else tuple(dict.fromkeys(targets))
    if unknown := [target for target in chosen if target not in found.targets]:
        raise UsageError(
            f"the zoo was not judged on {', '.join(unknown)}",
            fix=f"give all, or one of {', '.join(found.targets)}",
        )
    if figure is not None:
        from m4c.operator_reports.zoo.figure import draw_placed

        draw_placed(found, chosen, figure)
        sys.stderr.write(f"{figure}\n")
    if changed := found.changed({name: load_target(name).digest for name in chosen}):
        sys.stderr.write(
            f"{', '.join(changed)}: the profile has changed since; m4c report zoo --measure judges anew\n"
        )
    alone = chosen if len(chosen) == 1 else ()
    _show(
        form,
        lambda: render_placed.to_json(found, chosen),
        lambda: render_placed.to_markdown(found, chosen),
        lambda: [
            render_placed.to_outcomes(found, chosen),
            *(render_placed.to_table(found, target) for target in alone),
        ],
    )


def report_scaling(form: str, jobs: int, measure: bool, figure: Path | None) -> None:
    """Show what 1 to 50 tasks need of a device, as the models of the zoo and as M4; arguments as of :func:`report_zoo`.

    Raises:
        UsageError: if the picture cannot be drawn.
    """
    if measure:
        from m4c.scaling import measured

        with ProgressBar(len(BUILDERS) + len(SUBMODELS)) as progress:
            store_scaling(measured(progress, jobs))
    found = stored_scaling(stored())
    if figure is not None:
        from m4c.operator_reports.zoo.figure import draw_scaling

        draw_scaling(found, figure)
        sys.stderr.write(f"{figure}\n")
    _show(
        form,
        lambda: render_scaling.to_json(found),
        lambda: render_scaling.to_markdown(found),
        lambda: render_scaling.to_tables(found),
    )


def report_budget(graphs: Sequence[GraphOperators], budget: int, form: str) -> None:
    """Show which operator types ``graphs`` could give up to have at most ``budget``, and what each rewrite costs.

    Raises:
        GateError: if there are more.
        UsageError: if they are no ONNX graphs.
    """
    plan = planned(graphs, budget)
    prices = [price(step.substitute) for step in plan.steps]
    _show(
        form,
        lambda: render_budget.to_json(plan, prices),
        lambda: render_budget.to_markdown(plan, prices),
        lambda: [render_budget.to_table(plan, prices)],
    )
    if plan.exceeded:
        raise GateError(render_budget.verdict(plan), fix=render_budget.fix(plan))


def report_routes(targets: tuple[str, ...], preset: str, jobs: int, form: str) -> None:
    """Show how long each task's route takes at least on each of ``targets``, as ``text``, ``json`` or ``md``.

    Raises:
        UsageError: if no target is named, or it is not known how fast one is.
    """
    profiles = with_figures(targets)
    with ProgressBar(submodels_called()) as progress:
        found = timed(profiles, preset, progress, jobs)
    _show(
        form,
        lambda: render_latency.to_json(found, profiles, preset),
        lambda: "\n".join(render_latency.to_markdown(found[one.name], one) for one in profiles),
        lambda: [render_latency.to_table(found[one.name], one) for one in profiles],
    )


def _show(
    form: str,
    plain: Callable[[], Mapping[str, object]],
    text: Callable[[], str],
    tables: Callable[[], Iterable[Table]],
) -> None:
    """Make and print one of the forms of a report: a plain object for ``json``, text for ``md``, else tables."""
    if form == "json":
        show_json(plain())
    elif form == "md":
        sys.stdout.write(text())
    else:
        for table in tables():
            show_table(table)


STORED = {"zoo": report_zoo, "scaling": report_scaling}
"""Reports on what comes with m4c, by the subject that asks for each."""


def report_fleet(
    subject: str,
    targets: tuple[str, ...],
    preset: str,
    form: str,
    jobs: int,
    measure: bool,
    figure: Path | None,
) -> None:
    """Show a report on all tasks together: ``zoo``, ``scaling`` or ``routes``.

    Raises:
        UsageError: if an option does not belong to that report.
    """
    if form == "html":
        raise UsageError(
            f"{subject} has no page of its own", fix="m4c report m4 --format html has the zoo's growth"
        )
    if subject not in STORED:
        if measure or figure:
            raise UsageError("--measure and --figure are for zoo and scaling", fix="leave them out")
        report_routes(targets, preset, jobs, form)
        return
    if targets and subject == "zoo":
        if measure:
            raise UsageError(
                "--measure asks all targets", fix="leave out --target; show one of them afterwards"
            )
        report_zoo_on(targets, form, figure)
        return
    if targets:
        raise UsageError(f"{subject} is counted, not placed on a target", fix="leave out --target")
    STORED[subject](form, jobs, measure, figure)


def explain_node(bundle: Path, name: str, target: str | None, as_json: bool) -> None:
    """Show where the nodes called ``name`` come from and whether they run on ``target``, or on what they were built for."""
    steps = explain.explain(bundle, name, load_target(target) if target else None)
    if as_json:
        show_json(explain.to_json(steps, name))
        return
    for line in explain.lines(steps):
        sys.stdout.write(f"{line}\n")
