"""What a user asks of a compile. Imports no torch: whether there is anything to compile is known without it."""

from dataclasses import dataclass
from pathlib import Path

from m4c.adapters.given import Adapters
from m4c.errors import UsageError
from m4c.models import CACHED, shipped
from m4c.scheme import Scheme
from m4c.selection import selected_submodels
from m4c.targets.profile import Target

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
    """Names of dimensions and what numbers they shall be, in order; of one with several, each is a signature."""
    scheme: Scheme | None = None
    """How weights alone are quantized, if they are."""
    dialect: str | None = None
    """Which ONNX operators may be used, instead of what :func:`plan` chooses."""
    context_length: int | None = None
    """The most positions of a backbone, instead of all that its model knows."""
    cache_type: str = "float32"
    """What the caches of a backbone are stored in."""
    adapters: Adapters | None = None
    """Trained changes of the weights."""

    def __post_init__(self) -> None:
        """Refuse a limit of ranks where there is none, and options of the cache where there is none, or none of that type."""
        if self.adapters and self.adapters.rank_limit and (self.format or self.target.format) == "onnx":
            raise UsageError(
                "--rank-limit is for TFLite: in ONNX a slot takes any rank",
                fix="leave it out, or add --format tflite",
            )
        if self.context_length is None and self.cache_type == "float32":
            return
        if self.model is not None or CACHED not in selected_submodels(self.submodels):
            raise UsageError(
                f"--context-length and --cache-type are for {CACHED}",
                fix=f"export {CACHED}, or leave them out",
            )
        if self.cache_type != "float32" and (self.format or self.target.format) == "tflite":
            raise UsageError(
                f"--cache-type {self.cache_type} is for ONNX, the format is tflite", fix="add --format onnx"
            )
        if (self.cache_type, self.dialect) == ("int8", "genai"):
            raise UsageError(
                "onnxruntime-genai hands on no scales of a cache in int8",
                fix="give --cache-type float16, or --dialect ort",
            )

    def checkpoint(self, submodel: str) -> Path | None:
        """Return the checkpoint of a sub-model: its own folder within ``weights`` if there is one, else ``weights``."""
        own = self.weights / submodel if self.weights is not None else None
        if own is not None and own.exists():
            return own
        return self.weights if self.weights != shipped.WEIGHTS else None
