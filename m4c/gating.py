"""The commands that compare: ``m4c gate``, which fails a change that makes something worse, and ``m4c diff``."""

import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m4c import options

if TYPE_CHECKING:
    from m4c.operator_reports.gate.figures import Figures
    from m4c.operator_reports.gate.finding import Outcome
    from m4c.operator_reports.gate.limits import Limits
    from m4c.operator_reports.placement import Judged
    from m4c.targets.profile import Target


class Form(StrEnum):
    """Forms of a result."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "md"


LIMITS = "Limits"
OUTPUTS = "Outputs"


def today() -> date:
    """Return the date that waivers are held against."""
    return datetime.now(UTC).date()


def gate(
    target: Annotated[
        str, typer.Option(help="Where it shall run: a name (m4c list targets) or a .toml file.")
    ],
    subject: Annotated[
        str, typer.Argument(help="A preset, a sub-model, a bundle, an .onnx or a .tflite file.")
    ] = "m4-nano",
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of baselines: nothing may be worse than there.")
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Write the baseline as things are now.")
    ] = False,
    waivers: Annotated[
        Path | None, typer.Option(help="TOML file of exceptions: owner, reason, last day.")
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option(
            help="Percent of the nodes of every graph on the target.", min=0, max=100, rich_help_panel=LIMITS
        ),
    ] = None,
    min_coverage_macs: Annotated[
        float | None,
        typer.Option(help="Percent of the multiply-accumulates.", min=0, max=100, rich_help_panel=LIMITS),
    ] = None,
    min_coverage_bytes: Annotated[
        float | None,
        typer.Option(help="Percent of the bytes read and written.", min=0, max=100, rich_help_panel=LIMITS),
    ] = None,
    max_op_types: Annotated[
        int | None, typer.Option(help="Operator types of all graphs.", min=0, rich_help_panel=LIMITS)
    ] = None,
    max_partitions: Annotated[
        int | None, typer.Option(help="Partitions of a graph.", min=0, rich_help_panel=LIMITS)
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Size of all artifacts, such as 40MB.", rich_help_panel=LIMITS)
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Relative error of a bundle's graph.", min=0, rich_help_panel=LIMITS)
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(help="SQNR of a bundle's graph, in dB.", rich_help_panel=LIMITS)
    ] = None,
    max_new_operators: Annotated[
        int | None,
        typer.Option(
            help="Operator types beyond the baseline's; 0 unless given.", min=0, rich_help_panel=LIMITS
        ),
    ] = None,
    evidence: Annotated[
        options.Evidence,
        typer.Option(help="table: the target's profile decides; compiled: its own compiler is run."),
    ] = options.Evidence.TABLE,
    preset: options.Preset = "m4-nano",
    jobs: Annotated[int, typer.Option(help="Sub-models captured at once; 0: one a core.", min=0)] = 0,
    form: Annotated[
        Form, typer.Option("--format", help="text, json or md.", rich_help_panel=OUTPUTS)
    ] = Form.TEXT,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.", rich_help_panel=OUTPUTS)] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF 2.1.0.", rich_help_panel=OUTPUTS)] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write Markdown that fits a comment.", rich_help_panel=OUTPUTS)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Fail (exit code 4) if something is worse than limits or a committed baseline allow, and say where and why."""
    from m4c.memory_limit import size
    from m4c.operator_reports.gate.limits import Limits

    limits = Limits(
        min_coverage=min_coverage,
        min_coverage_macs=min_coverage_macs,
        min_coverage_bytes=min_coverage_bytes,
        max_op_types=max_op_types,
        max_partitions=max_partitions,
        max_size=size(max_size) if max_size else None,
        max_error=max_error,
        min_sqnr=min_sqnr,
        max_new_operators=max_new_operators,
    )
    wanted = Wanted(subject, target, evidence.value, preset, jobs, limits, baseline, waivers)
    outputs = Outputs("json" if as_json else form.value, junit, sarif, markdown)
    if update_baseline:
        _update(wanted, outputs)
    else:
        _gate(wanted, outputs)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a gate is asked."""

    subject: str
    target: str
    evidence: str
    preset: str
    jobs: int
    limits: "Limits"
    baseline: Path | None
    waivers: Path | None

    @property
    def scope(self) -> tuple[str, ...]:
        """The part of a preset that is looked at, nothing for all of it or for files."""
        from m4c.models import SUBMODELS

        return (self.subject,) if self.subject.partition("/")[0] in SUBMODELS else ()

    @property
    def held(self) -> str:
        """The subject as baselines name it: a preset, or the name of a folder or file."""
        from m4c.models import PRESETS

        if self.subject in PRESETS:
            return self.subject
        return self.preset if self.scope else Path(self.subject).resolve().name


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where results go beside the exit code."""

    form: str
    junit: Path | None
    sarif: Path | None
    markdown: Path | None


def _judged(wanted: Wanted, target: "Target") -> "tuple[list[Judged], Figures]":
    """Return the placements of the subject, and their figures."""
    from m4c.operator_reports.gate.figures import of_judged, with_files
    from m4c.reporting import placements

    found = placements(wanted.subject, (target,), wanted.evidence, wanted.preset, wanted.jobs)[target.name]
    figures = of_judged(wanted.held, target.name, found)
    path = Path(wanted.subject)
    return found, with_files(
        figures, path
    ) if path.exists() and wanted.held == path.resolve().name else figures


def _gate(wanted: Wanted, outputs: Outputs) -> None:
    """Hold the subject against limits and baseline, show the outcome, and raise if it failed.

    Raises:
        GateError: if something is worse than allowed.
        UsageError: if there is nothing to hold it against, or a file cannot be used.
    """
    from m4c.errors import UsageError
    from m4c.operator_reports.gate import baseline
    from m4c.operator_reports.gate.check import check
    from m4c.operator_reports.gate.waivers import read_waivers
    from m4c.targets.profile import load_target

    if not wanted.limits.given and wanted.baseline is None:
        raise UsageError(
            "the gate has neither a limit nor a baseline: it would pass whatever happens",
            fix="add --baseline DIR, or a limit such as --min-coverage 95",
        )
    target = load_target(wanted.target)
    # Files that cannot be used are told of before anything is captured.
    waivers = read_waivers(wanted.waivers) if wanted.waivers else ()
    before = baseline.read(wanted.baseline, wanted.held, target.name) if wanted.baseline else None
    found, figures = _judged(wanted, target)
    outcome = check(found, figures, target, wanted.limits, before, waivers, today(), wanted.scope)
    _show(outcome, wanted, outputs)


def _show(outcome: "Outcome", wanted: Wanted, outputs: Outputs) -> None:
    """Write an outcome in every form that was asked for.

    Raises:
        GateError: if it is a failure, with the first finding.
    """
    import json

    from m4c.errors import GateError
    from m4c.operator_reports.gate import render
    from m4c.operator_reports.gate.junit import to_junit
    from m4c.operator_reports.gate.sarif import to_sarif
    from m4c.terminal import show_json, show_table

    if outputs.junit:
        outputs.junit.write_text(to_junit(outcome), "utf-8")
    if outputs.sarif:
        log = to_sarif(outcome, _file(wanted, outcome.figures.target))
        outputs.sarif.write_text(json.dumps(log, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if outputs.markdown:
        outputs.markdown.write_text(render.to_markdown(outcome), "utf-8")
    if outputs.form == "json":
        show_json(render.to_json(outcome))
    elif outputs.form == "md":
        sys.stdout.write(render.to_markdown(outcome))
    else:
        sys.stdout.write(f"{render.headline(outcome)}\n")
        table = render.to_table(outcome)
        if table is not None:
            show_table(table)
        for line in render.lines(outcome):
            sys.stdout.write(f"{line}\n")
    if outcome.failures:
        first = outcome.failures[0]
        what = f"the gate failed: {first.message}"
        raise GateError(
            what, where=f"{first.where or 'all graphs'} on {outcome.figures.target}", fix=first.fix
        )


def _file(wanted: Wanted, target: str) -> str:
    """Return the file that findings are shown at: the subject's own, or of a preset its baseline."""
    from m4c.operator_reports.gate.baseline import file_of

    path = Path(wanted.subject)
    if not wanted.scope and path.exists():
        shown = path / "manifest.json" if path.is_dir() else path
    elif wanted.baseline is not None:
        shown = file_of(wanted.baseline, wanted.held, target)
    else:
        shown = Path(wanted.held)
    try:
        return shown.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return shown.as_posix()


def _update(wanted: Wanted, outputs: Outputs) -> None:
    """Write the baseline as things are now, and show what it changes; limits are held as ever.

    Raises:
        UsageError: if no baseline is named.
        GateError: if a limit does not hold.
    """
    from m4c.errors import UsageError
    from m4c.operator_reports.gate import baseline
    from m4c.operator_reports.gate.check import check
    from m4c.operator_reports.gate.diff import diff, to_table
    from m4c.operator_reports.gate.waivers import read_waivers
    from m4c.targets.profile import load_target
    from m4c.terminal import show_table

    if wanted.baseline is None:
        raise UsageError("--update-baseline writes a baseline, and none is named", fix="add --baseline DIR")
    target = load_target(wanted.target)
    waivers = read_waivers(wanted.waivers) if wanted.waivers else ()
    found, figures = _judged(wanted, target)
    path = baseline.file_of(wanted.baseline, wanted.held, target.name)
    before = baseline.read(path, wanted.held, target.name) if path.is_file() else None
    baseline.write(path, figures, wanted.scope)
    sys.stderr.write(f"{path} is written\n")
    if before is not None and outputs.form == "text":
        show_table(to_table(diff(before, baseline.read(path, wanted.held, target.name))))
    if wanted.limits.given:
        outcome = check(found, figures, target, wanted.limits, None, waivers, today(), wanted.scope)
        _show(outcome, wanted, outputs)


def diff(
    before: Annotated[str, typer.Argument(help="A bundle, a report or baseline in JSON, or a model file.")],
    after: Annotated[str, typer.Argument(help="The same, later.")],
    target: Annotated[
        str | None, typer.Option(help="Compare what runs there; bundles know it of their own target.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="text, json or md.")] = Form.TEXT,
    as_json: options.Json = False,
) -> None:
    """Compare two bundles, reports or model files: operators, coverage, partitions, sizes, errors."""
    from m4c.operator_reports.gate.diff import diff as compared
    from m4c.operator_reports.gate.diff import to_json, to_markdown, to_table
    from m4c.operator_reports.gate.load import load
    from m4c.targets.profile import load_target
    from m4c.terminal import show_json, show_table

    on = load_target(target) if target else None
    found = compared(load(before, on), load(after, on))
    if as_json or form is Form.JSON:
        show_json(to_json(found))
    elif form is Form.MARKDOWN:
        sys.stdout.write(to_markdown(found))
    else:
        show_table(to_table(found))
