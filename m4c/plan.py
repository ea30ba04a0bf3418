"""What a request means for one graph."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from m4c.cache import pairs
from m4c.calibration import without_samples
from m4c.errors import UsageError
from m4c.models import CACHED
from m4c.precisions import BITS, HALF, INTEGER
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.selection import STEPS
from m4c.source import OnnxSource, Source
from m4c.targets.emit_tflite import SIGNATURE
from m4c.targets.profile import Target, load_target


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
    cache: str = "float32"
    """What its caches are stored in."""
    rewrites: frozenset[str] = frozenset()
    """What its graph is rewritten by, as the target's profile says (:data:`m4c.targets.rules.REWRITES`)."""
    several: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The names and the sizes of its signatures, where there are several; the first has ``sizes``."""

    @property
    def signatures(self) -> Mapping[str, Mapping[str, int]]:
        """The names and the sizes of all signatures; an ONNX graph is one without a name."""
        return self.several or {SIGNATURE if self.format == "tflite" else "": self.sizes}


def plan(request: Request, source: Source) -> Plan:
    """Return what ``request`` means for ``source``, before anything is compiled.

    Raises:
        UsageError: if operators are chosen for a format that has none to choose from, ranges for a precision without, or
            signatures for a format or a precision that has one.
    """
    planned = _plan(request, source)
    if source.name.partition("/")[0] != CACHED or not pairs(source.inputs, source.outputs):
        return planned
    return replace(planned, cache=request.cache_type)


def _plan(request: Request, source: Source) -> Plan:
    """Return the plan without its cache."""
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
    if precision == HALF and request.dialect == "genai":
        raise UsageError(
            "onnxruntime-genai's own graph is not built in float16",
            fix="add --quantize int4, or leave out --dialect genai",
        )
    static, sizes = target.static_shapes or file_format == "tflite", dict(reversed(request.sizes))
    if static:
        sizes = {**source.static, **sizes}
    dialect = request.dialect or (fastest if file_format == "onnx" else "standard")
    several = _signatures(request, source, sizes, file_format, precision)
    wanted = Plan(
        file_format,
        precision,
        target.name,
        dialect,
        sizes=sizes,
        rewrites=target.rewrites(file_format, precision),
        several=several,
    )
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


def _signatures(
    request: Request, source: Source, sizes: Mapping[str, int], file_format: str, precision: str
) -> Mapping[str, Mapping[str, int]]:
    """Return the signatures of ``source`` by name, if the user wants several and they differ.

    Raises:
        UsageError: if its format or precision has no such.
    """
    wanted = [size for name, size in request.sizes if name == STEPS]
    named = {_signature_name(size): {**sizes, STEPS: size} for size in wanted}
    if len({tuple(source.sized(one).sizes.items()) for one in named.values()}) < 2:
        return {}
    steps = " and ".join(str(size) for size in wanted)
    if file_format != "tflite":
        raise UsageError(
            f"{STEPS} cannot be {steps} at once in {file_format}",
            where=source.name,
            fix=f"add --format tflite, or leave out --size {STEPS}: an ONNX graph takes any number of steps",
        )
    if precision in INTEGER:
        raise UsageError(
            f"signatures for {steps} steps would each be calibrated to scales of their own in {precision}",
            where=source.name,
            fix=f"give --size {STEPS} once, or choose --quantize int8-weights",
        )
    return named


def _signature_name(steps: int) -> str:
    """Return what runners of language models call a signature for so many steps."""
    return "decode" if steps == 1 else f"prefill_{steps}"


def processor(request: Request, planned: Plan) -> Target:
    """Return the target that a plan is for: the one asked for, or the CPU."""
    return request.target if planned.processor == request.target.name else load_target(planned.processor)


def weight_scheme(request: Request, planned: Plan) -> Scheme:
    """Return how weights are quantized: as asked for, or as the target's own precision says, on grids that the runtime has.

    Raises:
        UsageError: if it has none such.
    """
    scheme = request.scheme or Scheme(BITS[planned.precision])
    return scheme.for_litert() if planned.format == "tflite" else scheme


def fall_back(reason: str, request: Request) -> Plan:
    """Return the plan of a graph that its target cannot have: float32 on the CPU, with the reason.

    A dimension with several sizes stays dynamic there.
    """
    cpu, names = load_target("cpu"), [name for name, _ in request.sizes]
    sizes = {name: size for name, size in request.sizes if names.count(name) == 1}
    return Plan(cpu.format, cpu.precision, cpu.name, fallback=reason, sizes=sizes)
