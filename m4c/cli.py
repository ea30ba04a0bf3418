"""The command line: arguments in, exit code out. Commands import what they need, so that ``m4c --help`` is quick."""

import errno
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from m4c import __version__

if TYPE_CHECKING:
    from m4c.request import Request

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """File formats of artifacts."""

    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(StrEnum):
    """Precisions of artifacts."""

    NONE = "none"
    INT8 = "int8"
    INT16X8 = "int16x8"
    INT8_WEIGHTS = "int8-weights"
    INT4 = "int4"


class Method(StrEnum):
    """Methods of rounding weights."""

    RTN = "rtn"
    HQQ = "hqq"
    GPTQ = "gptq"


class Observer(StrEnum):
    """Ways to choose the ranges of integers."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class Dialect(StrEnum):
    """Which ONNX operators a graph may have."""

    STANDARD = "standard"
    ORT = "ort"
    GENAI = "genai"


class Fallback(StrEnum):
    """What becomes of a graph that the target cannot have."""

    CPU = "cpu"
    ERROR = "error"


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


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]


def _show_version(wanted: bool) -> None:
    """Print the version and stop, if that is ``wanted``."""
    if wanted:
        sys.stdout.write(f"m4c {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Bring a multimodal foundation model to a phone, an NPU or a laptop."""


@app.command()
def export(
    submodels: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sub-models, graphs (submodel/graph), or one .onnx file; nothing means all of the preset."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="Where it runs: a name (m4c list targets) or a .toml file.")
    ] = "cpu",
    preset: Annotated[str, typer.Option(help="m4-nano (small) or m4 (the paper's sizes).")] = "m4-nano",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint, or a folder with one; a folder may have one folder for each sub-model."
        ),
    ] = None,
    random_weights: Annotated[
        int | None, typer.Option(metavar="SEED", help="Random weights from a seed; the default, with seed 0.")
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Instead of the target's own.")
    ] = None,
    quantize: Annotated[Precision | None, typer.Option(help="Instead of the target's own precision.")] = None,
    method: Annotated[
        Method,
        typer.Option(help="How weights are rounded in int4 and int8-weights; gptq needs --calibration."),
    ] = Method.RTN,
    group_size: Annotated[
        int | None,
        typer.Option(help="Inputs that share a scale, a power of two from 16 on; 0: a whole output channel."),
    ] = None,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Give every group of weights a zero point.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=PRECISION", help="Weights to keep in float32 or int8, such as lm_head.*=int8."
        ),
    ] = None,
    bits_budget: Annotated[
        float | None,
        typer.Option(metavar="BITS", help="Average bits of a weight; 8 bits go where they help most."),
    ] = None,
    dialect: Annotated[
        Dialect | None,
        typer.Option(
            help="ONNX operators to use: of the standard, of ONNX Runtime, or as onnxruntime-genai loads."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Typical inputs for integers: a folder or file of samples, or the word random."),
    ] = None,
    observer: Annotated[
        Observer | None,
        typer.Option(help="How the ranges of integers are chosen; percentile in int8, minmax in int16x8."),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB", help="Signal to noise that integer artifacts must have; 10 in int8, 25 in int16x8."
        ),
    ] = None,
    fallback: Annotated[
        Fallback | None,
        typer.Option(help="For graphs that the target cannot have: build for the CPU, or an error."),
    ] = None,
    dynamic: Annotated[
        list[str] | None, typer.Option(help="A dimension to keep dynamic, such as batch.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="A dimension as a number, such as past=511 of a cache that does not grow; TFLite has no others. "
            "sequence may be given several times: each is a signature of one file.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Sub-models compiled at once; 0: one a core.", min=0)] = 0,
    max_rss: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory that must do, such as 1GiB; beyond it the export ends."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it will need, and write nothing.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the bundle.")] = Path("m4-bundle"),
    as_json: Json = False,
) -> None:
    """Compile sub-models, or an ONNX file, into a verified bundle."""
    from m4c.errors import UsageError
    from m4c.request import Request
    from m4c.scheme import scheme
    from m4c.selection import require_dimensions, require_sizes
    from m4c.targets.profile import load_target

    names = tuple(submodels or ())
    files = [name for name in names if name.endswith(".onnx")]
    if weights is not None and random_weights is not None:
        raise UsageError("--weights and --random-weights exclude each other", fix="give one of them")
    if files and (len(names) > 1 or weights is not None or dynamic or size):
        raise UsageError(
            "an .onnx file is exported alone, with the weights and dimensions it has",
            fix="leave out the rest",
        )
    if files and not Path(files[0]).is_file():
        raise UsageError(f"there is no file {files[0]}", fix="give the path of an ONNX file")
    precision = "float32" if quantize is Precision.NONE else quantize and quantize.value
    request = Request(
        target=load_target(target),
        submodels=() if files else names,
        model=Path(files[0]) if files else None,
        preset=preset,
        weights=weights,
        seed=random_weights or 0,
        format=file_format.value if file_format else None,
        precision=precision,
        fallback=fallback.value if fallback else None,
        calibration=calibration,
        observer=observer.value if observer else None,
        min_sqnr=min_sqnr,
        dynamic=require_dimensions(dynamic or ()),
        sizes=require_sizes(size or (), frozenset(dynamic or ())),
        dialect=dialect.value if dialect else None,
        scheme=scheme(precision, group_size, not asymmetric, method.value, tuple(keep or ()), bits_budget),
    )
    _export(request, out, jobs, max_rss, dry_run, as_json)


def _export(
    request: "Request", out: Path, jobs: int, max_rss: str | None, dry_run: bool, as_json: bool
) -> None:
    """Compile with a progress bar on stderr, then show the bundle on stdout; ``dry_run``: show what that needs alone."""
    import dataclasses

    from m4c.compile import compile_bundle
    from m4c.memory_limit import limited, size
    from m4c.resources import estimate, require_disk, room
    from m4c.selection import selected_submodels
    from m4c.terminal import ProgressBar, show_bundle, show_json

    limit = size(max_rss) if max_rss else None
    if limit or dry_run or not room(request, out):
        found = estimate(request, jobs, limit)
        if limit or dry_run:
            sys.stderr.write(f"{found}\n")
        require_disk(out, found.disk_bytes)
        jobs = found.jobs
        if dry_run:
            if as_json:
                show_json(dataclasses.asdict(found))
            return
    bar = ProgressBar(1 if request.model else len(selected_submodels(request.submodels)))
    with limited(limit), bar as progress:
        manifest = compile_bundle(request, out, progress, jobs)
    if as_json:
        show_json({"bundle": str(out), **dataclasses.asdict(manifest)})
    else:
        show_bundle(manifest, out)


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    task: Annotated[str, typer.Option(help="The paper's number of the task: T32 is speech recognition.")],
    audio: Annotated[Path | None, typer.Option(help="A WAV file.")] = None,
    text: Annotated[str | None, typer.Option(help="A prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(help="The most tokens to write.", min=1)] = 64,
    as_json: Json = False,
) -> None:
    """Run a task over the artifacts of a bundle; the result alone goes to stdout."""
    from m4c.bundle import read_manifest
    from m4c.errors import UsageError
    from m4c.routes.generate import generate
    from m4c.routes.transcribe import transcribe
    from m4c.tasks import require_task
    from m4c.terminal import show_json

    wanted = require_task(task).takes
    if (audio if wanted == "audio" else text) is None:
        raise UsageError(f"{task} needs --{wanted}", fix=f"add --{wanted}")
    manifest = read_manifest(bundle)
    if audio is not None and wanted == "audio":
        written = transcribe(bundle, manifest, audio)
    else:
        written = generate(bundle, manifest, str(text), max_tokens).text
    if as_json:
        show_json({"task": task, "text": written})
    else:
        sys.stdout.write(written + "\n")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Json = False,
) -> None:
    """Check a bundle: every file against its hash, every artifact against its test vector."""
    from m4c.bundle import read_manifest
    from m4c.selftest import selftest
    from m4c.terminal import show_selftest

    manifest = read_manifest(bundle)
    results = selftest(manifest, bundle)
    show_selftest(results, as_json)


@app.command()
def report(
    subject: Annotated[
        str, typer.Argument(help="A preset, a bundle, an .onnx or a .tflite file.")
    ] = "m4-nano",
    form: Annotated[ReportFormat, typer.Option("--format", help="text, json or md.")] = ReportFormat.TEXT,
    jobs: Annotated[int, typer.Option(help="Sub-models captured at once; 0: one a core.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Report the operator types of every graph, and those of all together."""
    from m4c.models import PRESETS, SUBMODELS
    from m4c.operator_reports.render import to_json, to_markdown, to_table
    from m4c.operator_reports.subjects import operators_of
    from m4c.progress import Silent
    from m4c.terminal import ProgressBar, show_json, show_table

    if subject in PRESETS:
        with ProgressBar(len(SUBMODELS)) as progress:
            graphs = operators_of(subject, progress, jobs)
    else:
        graphs = operators_of(subject, Silent())
    if as_json or form is ReportFormat.JSON:
        show_json(to_json(graphs))
    elif form is ReportFormat.MARKDOWN:
        sys.stdout.write(to_markdown(graphs))
    else:
        show_table(to_table(graphs))


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: Json = False) -> None:
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
            rows = {name: task.title for name, task in tasks.TASKS.items()}
    show_list(kind.value, rows, as_json)


SYSTEM_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of the operating system that are nobody's bug: a full disk, missing rights."""


def main() -> NoReturn:
    """Run the command line and exit with its code; a user's mistake ends in a message, never in a traceback."""
    import logging

    from m4c.errors import Bug, M4CError, UsageError

    try:
        app(prog_name="m4c")
    except M4CError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in SYSTEM_ERRORS:
            sys.stderr.write(f"error: {error.strerror}: {error.filename or 'while writing'}\n")
            sys.exit(UsageError.exit_code)
        logging.getLogger("m4c").exception("this is a bug of m4c; please report it with the lines below")
        sys.exit(Bug.exit_code)
    sys.exit(0)
