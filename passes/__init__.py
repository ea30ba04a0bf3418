"""The passes, one a file, and the order in which a compile runs them."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from m4c.observers import MinMax, Observer, Trimmed
from m4c.passes.calibrate import Calibrate
from m4c.passes.canonicalize import Canonicalize
from m4c.passes.choose_norms import ChooseNorms
from m4c.passes.decompose_batch_norm import DecomposeBatchNorm
from m4c.passes.decompose_group_norm import DecomposeGroupNorm
from m4c.passes.decompose_layer_norm import DecomposeLayerNorm, Form
from m4c.passes.drop_nan_guards import DropNanGuards
from m4c.passes.equalize_norms import EqualizeNorms
from m4c.passes.fold_weights import FoldWeights
from m4c.passes.fuse_attention import FuseAttention
from m4c.passes.fuse_norms import FuseNorms
from m4c.passes.guard_divisors import GuardDivisors
from m4c.passes.halve import Halve
from m4c.passes.insert_adapters import InsertAdapters
from m4c.passes.legalize_attention import LegalizeAttention
from m4c.passes.legalize_batch import LegalizeBatch
from m4c.passes.legalize_concat import LegalizeConcat
from m4c.passes.legalize_gather import LegalizeGather
from m4c.passes.legalize_gelu import LegalizeGelu
from m4c.passes.legalize_indices import LegalizeIndices
from m4c.passes.legalize_l2 import LegalizeL2
from m4c.passes.legalize_lengths import LegalizeLengths
from m4c.passes.legalize_mean import LegalizeMean
from m4c.passes.legalize_outputs import LegalizeOutputs
from m4c.passes.legalize_rms import LegalizeRms
from m4c.passes.legalize_rows import LegalizeRows
from m4c.passes.legalize_tied import LegalizeTied
from m4c.passes.merge_norm_axes import MergeNormAxes
from m4c.passes.narrow_cache import NarrowCache
from m4c.passes.offer_norms import OfferNorms
from m4c.passes.pack_matmul import PackMatMul
from m4c.passes.quantize_static import QuantizeStatic
from m4c.passes.quantize_weights import QuantizeWeights
from m4c.passes.simplify import Simplify
from m4c.passes.split_softmax import SplitSoftmax
from m4c.passes.stack_products import StackProducts
from m4c.passes.tabulate import Tabulate
from m4c.passes.unroll_recurrent import UnrollRecurrent
from m4c.pipeline import Pass, Pipeline
from m4c.quant import WIDE
from m4c.scales import WIDE_KERNELS
from m4c.scheme import Given, Grids, Scheme
from m4c.slots import Slot

OBSERVERS: Mapping[str, Observer] = {"int8": Trimmed(), "int16x8": MinMax()}
"""How the ranges of an integer build are chosen, by its precision.

In int8, values that stand far out are given up. Calibrated on two sentences, Whisper tiny.en's encoder follows its source on
ten with 12.6 dB on average, with 12.0 dB where every tensor has the range that holds 99.98 %, and with 2 dB where it has its
extremes. Its decoder on a float encoder's output writes 9 of 118 words otherwise, and 33 where every tensor has that range.
"""


LENGTHS = "lengths"
"""The rewrite that :class:`LegalizeLengths` does."""

LEGALIZE: Mapping[str, Pass] = {
    "tied": LegalizeTied(),
    "rms": LegalizeRms(),
    "gather": LegalizeGather(),
    "concat": LegalizeConcat(),
    "gelu": LegalizeGelu(),
    "attention": LegalizeAttention(),
    "batch": LegalizeBatch(),
    "mean": LegalizeMean(),
    "rows": LegalizeRows(),
    "l2": LegalizeL2(),
    "indices": LegalizeIndices(),
    "outputs": LegalizeOutputs(),
}
"""The passes behind the rewrites that a target's profile may name, in their order.

Of the others, ``lengths`` comes when ranges are known; ``linear``, ``host`` and ``rank`` are how a file is written.
"""


def canonical() -> Pipeline:
    """Return the passes that every compile begins with, whatever the target."""
    return Pipeline((Simplify(), Canonicalize(), FoldWeights(), Simplify(), Canonicalize()))


def for_format(file_format: str, layer_norm: Form = "mean", dialect: str = "standard") -> Pipeline:
    """Return canonical passes, then those that decompose what the format has no operator for: all of a float build.

    An ONNX build keeps its norms, in float.
    """
    if file_format == "tflite":
        plain = (
            canonical() | UnrollRecurrent() | DecomposeBatchNorm() | DecomposeGroupNorm() | MergeNormAxes()
        )
        return plain | DecomposeLayerNorm(layer_norm)
    return canonical() if dialect == "standard" else canonical() | FuseAttention() | FuseNorms()


def for_halves(dialect: str, halve: Halve, rewrites: Collection[str] = ()) -> Pipeline:
    """Return the passes of an ONNX build that computes in float16."""
    return legalized(for_format("onnx", dialect=dialect), rewrites) | halve


def for_weights(
    scheme: Scheme,
    dialect: str,
    given: Given = MappingProxyType({}),
    grids: Grids = MappingProxyType({}),
) -> Pipeline:
    """Return the passes of a build whose weights alone are integers, for LiteRT or an ONNX ``dialect``."""
    if scheme.litert:
        return for_format("tflite") | QuantizeWeights(scheme, given, grids)
    quantized = canonical() | QuantizeWeights(scheme, given, grids)
    return (
        quantized
        if dialect == "standard"
        else quantized | FuseAttention() | StackProducts() | PackMatMul() | FuseNorms()
    )


def with_adapters(pipeline: Pipeline, slots: tuple[Slot, ...]) -> Pipeline:
    """Return a pipeline that adds ``slots`` to canonical graphs, before weights are rounded and products fused."""
    if not slots:
        return pipeline
    begin = len(canonical().steps)
    steps = (*pipeline.steps[:begin], InsertAdapters(slots), *pipeline.steps[begin:])
    return Pipeline(steps, pipeline.given)


def with_cache(pipeline: Pipeline, kind: str) -> Pipeline:
    """Return a pipeline whose graphs store their caches in ``kind``."""
    return pipeline if kind == "float32" else pipeline | NarrowCache(kind)


def for_integers(
    precision: str, file_format: str, calibrate: Calibrate, rewrites: Collection[str] = ()
) -> Pipeline:
    """Return the passes of an integer build of ``precision``; ``rewrites`` are what the target's profile names, for int8.

    In int16x8, softmax, the reciprocal root of layer norms and LpNormalization compute in float in a TFLite file: LiteRT's
    int16 kernels are too coarse, or there are none. Whisper tiny.en's encoder has 31.5 dB, and 23.3 dB if they do not.
    """
    pipeline = before_ranges(precision, file_format, rewrites)
    if precision == "int8":
        norms = LegalizeLengths() if LENGTHS in rewrites else ChooseNorms()
        return pipeline | OfferNorms() | calibrate | norms | GuardDivisors() | QuantizeStatic()
    return pipeline | calibrate | GuardDivisors(WIDE) | QuantizeStatic(wide=tuple(sorted(WIDE_KERNELS)))


def before_ranges(precision: str, file_format: str, rewrites: Collection[str] = ()) -> Pipeline:
    """Return the passes of an integer build as far as they need no samples: they settle which operators it has."""
    # One kernel, of int8 or between two pairs, divides short rows and long ones by their lengths.
    norms = {"rms"} if file_format == "tflite" else set()
    if precision == "int8":
        legal = legalized(for_format(file_format, "norm") | DropNanGuards(), norms | set(rewrites))
        return legal | Tabulate() | EqualizeNorms() | SplitSoftmax()
    return legalized(for_format(file_format, "product") | DropNanGuards(), norms) | Tabulate()


def without_ranges(precision: str, file_format: str, rewrites: Collection[str] = ()) -> Pipeline:
    """Return the passes whose result has the operators of an integer build, for a judgement that has no samples.

    Norms stay L2_NORMALIZATION where samples choose their form.
    """
    pipeline = before_ranges(precision, file_format, rewrites)
    if precision == "int8" and LENGTHS in rewrites:
        return pipeline | OfferNorms() | LegalizeLengths()
    return pipeline


def legalized(pipeline: Pipeline, rewrites: Collection[str]) -> Pipeline:
    """Return a pipeline followed by those of :data:`LEGALIZE` that ``rewrites`` name, and what cleans up behind them."""
    chosen = [step for name, step in LEGALIZE.items() if name in rewrites]
    for step in chosen:
        pipeline = pipeline | step
    return pipeline | Canonicalize(only=("Identity", "Reshape")) if chosen else pipeline
