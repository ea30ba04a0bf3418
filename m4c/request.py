"""What a user asks of a compile, and what follows from it for one graph."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from m4c.calibration import without_samples
from m4c.errors import UsageError
from m4c.precisions import BITS, INTEGER
from m4c.scheme import Scheme
from m4c.source import OnnxSource, Source
from m4c.targets.profile import Target, load_target

DIALECTS = {
    "standard": "operators of the ONNX standard alone: any runtime",
    "ort": "ONNX Runtime's own operators for attention, norms and blockwise weights: the fastest there",
    "genai": "as ort, with the graph, names and files that onnxruntime-genai loads",
}
"""Which ONNX operators a graph may have."""


@dataclass(frozen=True)
class Request:
    """An export, as the command line states it; plain data, so that it can be handed to another process."""

    target: Target
    submodels: tuple[str, ...] = ()
    """Sub-models, or graphs as ``submodel/graph``; none means all of the preset."""
    model: Path | None = None
    """An ONNX file instead of a preset."""
    preset: str = "m4-nano"
    weights: Path | None = None
    """A checkpoint; without one, random weights."""
    seed: int = 0
    """Of random weights and of the inputs that artifacts are verified with."""
    format: str | None = None
    precision: str | None = None
    fallback: str | None = None
    calibration: str | None = None
    """A folder or file of samples, or ``random``."""
    observer: str | None = None
    """How the ranges of an integer build are chosen, a name of :data:`m4c.observers.NAMED`; else its precision's own."""
    min_sqnr: float | None = None
    """The SQNR in dB that integer artifacts must have, instead of the table's floor."""
    dynamic: frozenset[str] = frozenset()
    sizes: tuple[tuple[str, int], ...] = ()
    """Names of dimensions and what numbers they shall be."""
    scheme: Scheme | None = None
    """How weights alone are quantized, if they are."""
    dialect: str | None = None
    """Which ONNX operators may be used, instead of what :func:`plan` chooses."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is built of one graph."""

    format: str
    precision: str
    processor: str
    dialect: str = "standard"
    fallback: str | None = None
    """Why it is not built for the target that was asked for."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Dimensions that are numbers here."""


def plan(request: Request, source: Source) -> Plan:
    """Return what ``request`` means for ``source``, before anything is compiled.

    Raises:
        UsageError: if operators are chosen for a format that has none to choose from, or ranges for a precision without.
    """
    target = request.target
    if request.dialect and (request.format or target.format) == "tflite":
        raise UsageError(
            f"--dialect {request.dialect} is for ONNX, the format is tflite", fix="add --format onnx"
        )
    precision = request.precision or target.precision
    if request.observer and precision not in INTEGER:
        raise UsageError(
            f"--observer {request.observer} chooses ranges of integers, the precision is {precision}",
            fix="add --quantize int8, or leave it out",
        )
    fastest = "ort" if precision in BITS else "standard"
    file_format = request.format or target.format
    static, sizes = target.static_shapes or file_format == "tflite", dict(request.sizes)
    if static:
        sizes = {**source.static, **sizes}
    dialect = request.dialect or (fastest if file_format == "onnx" else "standard")
    wanted = Plan(file_format, precision, target.name, dialect, sizes=sizes)
    ports = source.sized(sizes).inputs
    growing = sorted({d for port in ports for d in port.shape if isinstance(d, str) and "+" not in d})
    if growing and static:
        return fall_back(
            f"{' and '.join(growing)} change from call to call, {target.name} has static shapes", request
        )
    if wanted.precision in BITS and isinstance(source, OnnxSource):
        return fall_back(f"{wanted.precision} of an ONNX file is not supported", request)
    if wanted.precision in BITS:
        weight_scheme(request, wanted)  # refused here, before anything is captured
    if wanted.precision in INTEGER and (reason := without_samples(source, request.calibration)):
        return fall_back(reason, request)
    return wanted


def weight_scheme(request: Request, planned: Plan) -> Scheme:
    """Return how weights are quantized: as asked for, or as the target's own precision says, on grids that the runtime has.

    Raises:
        UsageError: if it has none such.
    """
    scheme = request.scheme or Scheme(BITS[planned.precision])
    return scheme.for_litert() if planned.format == "tflite" else scheme


def fall_back(reason: str, request: Request) -> Plan:
    """Return the plan of a graph that its target cannot have: float32 on the CPU, with the reason."""
    cpu = load_target("cpu")
    return Plan(cpu.format, cpu.precision, cpu.name, fallback=reason, sizes=dict(request.sizes))
