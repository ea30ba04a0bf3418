"""The command line: arguments in, exit code out. Commands import what they need, so that ``m4c --help`` is quick."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from m4c import __version__, adapting, gating, options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Kind(StrEnum):
    """What can be listed."""

    PRESETS = "presets"
    SUBMODELS = "submodels"
    TARGETS = "targets"
    TASKS = "tasks"


class ReportFormat(StrEnum):
    """Forms of a report."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "md"
    HTML = "html"


def _show_version(wanted: bool) -> None:
    """Print the version and stop, if that is ``wanted``."""
    if wanted:
        sys.stdout.write(f"m4c {__version__}\n")
        raise typer.Exit


@app.callback()
def _version(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Bring a multimodal foundation model to a phone, an NPU or a laptop."""


@app.command()
def export(
    submodels: options.Submodels = None,
    task: options.Tasks = None,
    target: options.Targets = ["cpu"],  # noqa: B006  typer copies it
    preset: options.Preset = "m4-nano",
    weights: options.Weights = None,
    random_weights: options.RandomWeights = None,
    file_format: options.FileFormat = None,
    quantize: options.Precisions = None,
    method: options.RoundingMethod = options.Method.RTN,
    group_size: options.GroupSize = None,
    asymmetric: options.Asymmetric = False,
    keep: options.Keep = None,
    bits_budget: options.BitsBudget = None,
    dialect: options.Operators = None,
    context_length: options.ContextLength = None,
    cache_type: options.Cache = options.CacheType.FLOAT32,
    adapter: options.Adapter = None,
    adapters: options.Adapters = None,
    adapter_pickle: options.AdapterPickle = False,
    rank_limit: options.RankLimit = None,
    calibration: options.Calibration = None,
    observer: options.Ranges = None,
    min_sqnr: options.MinSqnr = None,
    fallback: options.WhatElse = None,
    dynamic: options.Dynamic = None,
    size: options.Size = None,
    jobs: options.Jobs = 0,
    max_rss: options.MaxRss = None,
    store: options.StoreAt = None,
    executor: options.Executor = None,
    dry_run: options.DryRun = False,
    out: options.Out = Path("m4-bundle"),
    as_json: options.Json = False,
) -> None:
    """Compile sub-models, or an ONNX file, into a verified bundle."""
    from m4c.adapters.given import adapters as given_adapters
    from m4c.errors import UsageError
    from m4c.exporting import How, export_bundles
    from m4c.matrix import variants
    from m4c.models import shipped
    from m4c.request import Request
    from m4c.scheme import scheme
    from m4c.selection import require_dimensions, require_sizes, selected_file, selected_submodels
    from m4c.targets.profile import load_target
    from m4c.tasks import graphs_of

    names = (*(submodels or ()), *graphs_of(task or (), dialect.value if dialect else None))
    if weights is not None and random_weights is not None:
        raise UsageError("--weights and --random-weights exclude each other", fix="give one of them")
    model = selected_file(names, alone=not (weights or dynamic or size or adapter))
    targets = [load_target(one) for one in target]
    rounding = (group_size, not asymmetric, method.value, tuple(keep or ()), bits_budget)
    precisions = [options.precision(one) for one in options.unique(quantize)]
    request = Request(
        target=targets[0],
        submodels=() if model else names,
        model=model,
        preset=preset,
        weights=None if model else shipped.default(preset, weights, random_weights),
        seed=random_weights or 0,
        format=file_format.value if file_format else None,
        precision=precisions[0],
        fallback=fallback.value if fallback else None,
        calibration=calibration,
        observer=observer.value if observer else None,
        min_sqnr=min_sqnr,
        dynamic=require_dimensions(dynamic or ()),
        sizes=require_sizes(size or (), frozenset(dynamic or ())),
        dialect=dialect.value if dialect else None,
        context_length=context_length,
        cache_type=cache_type.value,
        adapters=given_adapters(
            adapter or (),
            adapters.value if adapters else None,
            adapter_pickle,
            () if model else selected_submodels(names),
            rank_limit,
        ),
    )
    wanted = variants(request, targets, {one: scheme(one, *rounding) for one in precisions})
    export_bundles(wanted, out, How(jobs, max_rss, dry_run, store, executor, as_json))


@app.command()
def sensitivity(
    submodel: Annotated[str, typer.Argument(help="The sub-model whose matrices are ranked.")] = "backbone",
    preset: options.Preset = "m4-nano",
    weights: options.Weights = None,
    quantize: options.Quantize = options.Precision.INT4,
    method: options.RoundingMethod = options.Method.RTN,
    group_size: options.GroupSize = None,
    asymmetric: options.Asymmetric = False,
    keep: options.Keep = None,
    as_json: options.Json = False,
) -> None:
    """Rank the matrices of a sub-model by what rounding costs them, the worst first; nothing is written."""
    from m4c.assemble import open_sources
    from m4c.errors import UsageError
    from m4c.models import require_submodel, shipped
    from m4c.request import Request
    from m4c.scheme import scheme
    from m4c.targets.profile import load_target
    from m4c.terminal import ProgressBar, show_sensitivities
    from m4c.weight_plan import linear_weights, ranked

    require_submodel(submodel)
    precision = options.precision(quantize)
    wanted = scheme(precision, group_size, not asymmetric, method.value, tuple(keep or ()), None)
    if wanted is None:
        raise UsageError(
            f"weights alone are not rounded in {precision}", fix="give --quantize int4 or int8-weights"
        )
    given = shipped.default(preset, weights, None)
    request = Request(load_target("cpu"), (submodel,), preset=preset, weights=given, precision=precision)
    source = open_sources(request, submodel)[2][0]
    with ProgressBar(1) as progress:
        found = ranked(source, wanted, progress)
    shapes = {name: tuple(tensor.shape.numpy()) for name, tensor in linear_weights(source).items()}
    show_sensitivities(str(wanted), found, shapes, as_json)


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    task: Annotated[str, typer.Option(help="The paper's number of the task (m4c list tasks).")],
    text: options.Text = None,
    question: options.Question = None,
    image: options.Images = None,
    audio: options.Audio = None,
    imu: options.Imu = None,
    labels: options.Labels = None,
    adapter: Annotated[
        str | None, typer.Option(help="An adapter of the bundle, or a folder with one for its base.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="The most tokens to write.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of the noise that a drawing begins with.", min=0)] = 0,
    out: options.Result = None,
    as_json: options.Json = False,
) -> None:
    """Run a task over the artifacts of a bundle; the result alone goes to stdout."""
    from m4c.bundle import read_manifest
    from m4c.routes.perform import Given, check, perform
    from m4c.terminal import show_json

    given = Given(
        text=text,
        question=question,
        image=tuple(image or ()),
        audio=audio,
        imu=imu,
        labels=tuple(labels.split(",")) if labels else (),
        out=out,
        adapter=adapter,
        max_tokens=max_tokens,
        seed=seed,
    )
    check(task, given)
    result = perform(bundle, read_manifest(bundle), task, given)
    if as_json:
        show_json({"task": task, "text": result.text} | ({"scores": result.scores} if result.scores else {}))
    else:
        sys.stdout.write(result.text + "\n")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Compile it again from its recipe, and compare every byte.")
    ] = False,
    weights: options.Weights = None,
    calibration: options.Calibration = None,
    adapter: options.Adapter = None,
    model: Annotated[Path | None, typer.Option(help="The ONNX file that it was exported from.")] = None,
    target: Annotated[str | None, typer.Option(help="The .toml file of its target.")] = None,
    jobs: options.Jobs = 0,
    as_json: options.Json = False,
) -> None:
    """Check a bundle: every file against its hash, every artifact against its test vector.

    What a rebuild needs and a bundle does not hold is given as it was to m4c export.
    """
    from m4c.bundle import read_manifest
    from m4c.selftest import selftest
    from m4c.terminal import show_selftest

    manifest = read_manifest(bundle)
    results = selftest(manifest, bundle)
    if rebuild:
        from m4c.exporting import rebuild_bundle
        from m4c.rebuild import Beside

        rebuild_bundle(manifest, bundle, Beside(weights, calibration, model, adapter or (), target), jobs)
    show_selftest(results, as_json)


@app.command()
def report(
    subject: Annotated[
        str,
        typer.Argument(
            help="A preset, a sub-model, a bundle, a file; zoo: the paper's 50 models; scaling: what 1 to 50 tasks need; "
            "routes: the least time of each task on a target."
        ),
    ] = "m4-nano",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Where it shall run: a name (m4c list targets), a .toml file or all; several times."
        ),
    ] = None,
    evidence: Annotated[
        options.Evidence,
        typer.Option(help="table: the target's profile decides; compiled: its own compiler is run."),
    ] = options.Evidence.TABLE,
    preset: options.Preset = "m4-nano",
    form: Annotated[
        ReportFormat, typer.Option("--format", help="text, json, md or html.")
    ] = ReportFormat.TEXT,
    jobs: Annotated[int, typer.Option(help="Models captured at once; 0: one a core.", min=0)] = 0,
    op_budget: Annotated[
        int | None,
        typer.Option(min=1, help="Exit with 4 if there are more operator types; say what to give up."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="zoo, scaling: measure all anew and store it.")
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="zoo, scaling: draw into this .svg or .png; zoo without --target: the use of types into …-use."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="html: the file to write, instead of stdout.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Report the operators of every graph, or with --target which of them run there, in which partitions, and why not."""
    from m4c.errors import UsageError

    if subject in ("zoo", "scaling", "routes"):
        from m4c.reporting import report_fleet

        shown = "json" if as_json else form.value
        if op_budget is not None:
            raise UsageError("--op-budget is for graphs", fix="m4c report m4 --op-budget 20")
        report_fleet(subject, tuple(target or ()), preset, shown, jobs, measure, figure)
        return
    if measure or figure:
        raise UsageError("--measure and --figure are for m4c report zoo and scaling", fix="leave them out")
    from m4c.models import PRESETS, SUBMODELS
    from m4c.operator_reports.render import to_json, to_markdown, to_table
    from m4c.operator_reports.subjects import operators_of
    from m4c.progress import Silent
    from m4c.reporting import report_budget, report_placement
    from m4c.terminal import ProgressBar, show_json, show_table

    as_json = as_json or form is ReportFormat.JSON
    page = form is ReportFormat.HTML and not as_json
    if out is not None and not page:
        raise UsageError("--out is for --format html", fix="add --format html, or redirect stdout")
    if op_budget is not None and (target or page):
        raise UsageError("--op-budget counts types, on no target", fix="leave out --target and --format html")
    if target or page:
        targets = tuple(target or ("all",))
        report_placement(
            subject, targets, evidence.value, preset, jobs, "json" if as_json else form.value, out
        )
        return
    if subject in PRESETS:
        with ProgressBar(len(SUBMODELS)) as progress:
            graphs = operators_of(subject, progress, jobs)
    else:
        graphs = operators_of(subject, Silent())
    if op_budget is not None:
        report_budget(graphs, op_budget, "json" if as_json else form.value)
    elif as_json:
        show_json(to_json(graphs))
    elif form is ReportFormat.MARKDOWN:
        sys.stdout.write(to_markdown(graphs))
    else:
        show_table(to_table(graphs))


@app.command()
def explain(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    node: Annotated[str, typer.Argument(help="A value, a module or an index; graph:… says in which graph.")],
    target: Annotated[str | None, typer.Option(help="Another target than it was built for.")] = None,
    as_json: options.Json = False,
) -> None:
    """Tell of a node where it comes from, what it became, and whether its target runs it, with every reason and fix."""
    from m4c.reporting import explain_node

    explain_node(bundle, node, target, as_json)


app.command()(gating.gate)
app.command()(gating.diff)
app.add_typer(adapting.app, name="adapters")


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: options.Json = False) -> None:
    """List what m4c knows."""
    from m4c import tasks
    from m4c.models import PRESETS, SUBMODELS
    from m4c.targets.profile import load_target, names
    from m4c.terminal import show_list

    match kind:
        case Kind.PRESETS:
            rows = dict(PRESETS)
        case Kind.SUBMODELS:
            rows = {name: listing.summary for name, listing in SUBMODELS.items()}
        case Kind.TARGETS:
            rows = {name: load_target(name).summary for name in names()}
        case Kind.TASKS:
            rows = {name: task.summary for name, task in tasks.TASKS.items()}
    show_list(kind.value, rows, as_json)


def main() -> NoReturn:
    """Run the command line and exit with its code; a user's mistake ends in a message, never in a traceback."""
    import logging

    from m4c.errors import Bug, M4CError, as_usage

    try:
        app(prog_name="m4c")
    except M4CError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except Exception as error:
        told = as_usage(error)
        if told is not None:
            sys.stderr.write(f"error: {told}\n")
            sys.exit(told.exit_code)
        logging.getLogger("m4c").exception("this is a bug of m4c; please report it with the lines below")
        sys.exit(Bug.exit_code)
    sys.exit(0)
