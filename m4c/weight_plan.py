"""What weight-only quantization finds out before a graph is rewritten: grids within a budget, matrices rounded on samples."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import nn

from m4c.blockwise import BlockwiseWeight
from m4c.errors import UsageError
from m4c.grid import Grid
from m4c.host.text import JsonTokenizer
from m4c.layerwise import calibrate
from m4c.progress import Progress
from m4c.rounding.budget import Sensitivity, sensitivity, spend
from m4c.scheme import CALIBRATED, Given, Grids, Scheme
from m4c.source import TorchSource

SEQUENCE = 128
"""Tokens of a calibration sample, or as many as the context has."""

MOST_SAMPLES = 32
"""Samples that are looked at together."""

WIDE = 8
"""Bits that a budget may give to a matrix."""


def linear_weights(source: TorchSource) -> dict[str, ir.TensorProtocol]:
    """Return the matrices of the linear layers of ``source``, by name."""
    return {
        f"{path}.weight": source.weights[f"{path}.weight"]
        for path, module in source.graph.module.source.named_modules()
        if isinstance(module, nn.Linear)
    }


def sensitivities(
    source: TorchSource,
    scheme: Scheme,
    grids: Callable[[str, int], Sequence[Grid]],
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sensitivity]:
    """Return how much each matrix loses on each of its ``grids``, which its name and its inputs tell, the worst first.

    What the checkpoint has on a grid keeps its codes, and loses nothing. ``told`` is called with the bytes that are read.
    """
    matrices = linear_weights(source)
    total, done, found = sum(matrix.nbytes for matrix in matrices.values()), 0, list[Sensitivity]()
    for name, matrix in matrices.items():
        outputs, inputs = matrix.shape.numpy()
        kept, wanted = getattr(matrix, "origin", None), grids(name, inputs)
        if isinstance(kept, BlockwiseWeight):
            bits = kept.grid.bits_per_weight(inputs)
            found.append(Sensitivity(name, kept.grid, 0.0, bits, outputs * inputs))
        elif wanted:
            found += sensitivity({name: matrix}, wanted, None, scheme.rounding)
        done += matrix.nbytes
        told(done, total)
    return sorted(found, key=lambda one: -one.error)


def ranked(source: TorchSource, scheme: Scheme, progress: Progress) -> list[Sensitivity]:
    """Return how much each matrix loses on the grid that ``scheme`` gives it, the worst first, but for those kept in float.

    Raises:
        UsageError: if weights are rounded on samples, which are not looked at here; or if there are no matrices.
    """
    if scheme.method == CALIBRATED:
        raise UsageError(
            f"what {CALIBRATED} loses depends on samples",
            fix="rank with --method rtn or hqq, then export with it",
        )

    def one(name: str, inputs: int) -> list[Grid]:
        grid = scheme.grid(name, inputs)
        return [] if grid is None else [grid]

    name = source.name.partition("/")[0]
    progress.stage(name, "read")
    found = sensitivities(source, scheme, one, lambda done, total: progress.step(name, done, total))
    progress.completed(name)
    if not found:
        raise UsageError(
            f"{name} has no matrices to round", fix="choose another sub-model, or keep fewer in float32"
        )
    return found


def grids_for(source: TorchSource, scheme: Scheme) -> Grids:
    """Return the grids that the budget of ``scheme`` buys, or none if there is no budget."""
    if scheme.bits_budget is None:
        return {}

    def both(_name: str, inputs: int) -> list[Grid]:
        return [scheme.of(bits, inputs) for bits in (scheme.bits, WIDE)]

    return spend(sensitivities(source, scheme, both), scheme.bits_budget)


def rounded_on_samples(
    source: TorchSource,
    scheme: Scheme,
    grids: Grids,
    calibration: str | None,
    tokenizer: Path | None,
    workspace: Path,
    progress: Progress,
) -> Given:
    """Return the matrices of ``source`` rounded by gptq on a user's text, or nothing if another method was asked for.

    Raises:
        UsageError: without text, or for a graph that takes no text.
    """
    if scheme.method != CALIBRATED or source.graph.from_tokens is None:
        return {}
    tokens = _tokens(calibration, tokenizer, min(SEQUENCE, source.graph.max_steps or SEQUENCE))
    wanted = {}
    for name, matrix in linear_weights(source).items():
        grid = grids.get(name) or scheme.grid(name, matrix.shape.numpy()[1])
        if grid is not None:
            wanted[name] = grid
    inputs = source.graph.from_tokens(source.graph.inputs, source.weights, tokens)
    return calibrate(source.graph, source.weights, inputs, wanted, workspace, progress)


def _tokens(calibration: str | None, tokenizer: Path | None, length: int) -> np.ndarray:
    """Return samples of the user's text, int64 (samples, ``length``)."""
    if calibration is None or not calibration.endswith(".txt") or not Path(calibration).is_file():
        raise UsageError(
            "gptq rounds weights for what the model reads",
            where=str(calibration or "--calibration"),
            fix="give --calibration a .txt file of typical text, or choose --method rtn or hqq",
        )
    if tokenizer is None or not tokenizer.is_file():
        raise UsageError(
            "there is no tokenizer for the calibration text",
            where=str(tokenizer or "--weights"),
            fix="put the checkpoint's tokenizer.json beside its weights",
        )
    ids = JsonTokenizer(tokenizer).tokenizer.encode(Path(calibration).read_text("utf-8")).ids
    count = min(len(ids) // length, MOST_SAMPLES)
    if not count:
        raise UsageError(
            f"{calibration} has {len(ids)} tokens",
            fix=f"give a text of at least {length} tokens; {length * MOST_SAMPLES} are used",
        )
    step = len(ids) // count  # spread over the whole text
    return np.stack([np.array(ids[i * step : i * step + length], np.int64) for i in range(count)])
