"""What weight-only quantization finds out before a graph is rewritten: grids within a budget, matrices rounded on samples."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from torch import nn

from m4c.errors import UsageError
from m4c.host.text import JsonTokenizer
from m4c.layerwise import calibrate
from m4c.progress import Progress
from m4c.rounding.budget import Sensitivity, sensitivity, spend
from m4c.scheme import CALIBRATED, Given, Grids, Scheme
from m4c.source import TorchSource

SEQUENCE = 128
"""Tokens of a calibration sample."""

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


def sensitivities(source: TorchSource, scheme: Scheme) -> list[Sensitivity]:
    """Return how much each matrix loses on the grid of ``scheme`` and on that of 8 bits, the worst first."""
    matrices = linear_weights(source)
    found = []
    for name, matrix in matrices.items():
        grids = [scheme.of(bits, matrix.shape.numpy()[1]) for bits in (scheme.bits, WIDE)]
        found += sensitivity({name: matrix}, grids, None, scheme.rounding)
    return sorted(found, key=lambda one: -one.error)


def grids_for(source: TorchSource, scheme: Scheme) -> Grids:
    """Return the grids that the budget of ``scheme`` buys, or none if there is no budget."""
    if scheme.bits_budget is None:
        return {}
    return spend(sensitivities(source, scheme), scheme.bits_budget)


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
    tokens = _tokens(calibration, tokenizer)
    wanted = {}
    for name, matrix in linear_weights(source).items():
        grid = grids.get(name) or scheme.grid(name, matrix.shape.numpy()[1])
        if grid is not None:
            wanted[name] = grid
    inputs = source.graph.from_tokens(source.graph.inputs, source.weights, tokens)
    return calibrate(source.graph, source.weights, inputs, wanted, workspace, progress)


def _tokens(calibration: str | None, tokenizer: Path | None) -> np.ndarray:
    """Return samples of the user's text, int64 (samples, :data:`SEQUENCE`)."""
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
    count = min(len(ids) // SEQUENCE, MOST_SAMPLES)
    if not count:
        raise UsageError(
            f"{calibration} has {len(ids)} tokens",
            fix=f"give a text of at least {SEQUENCE} tokens; {SEQUENCE * MOST_SAMPLES} are used",
        )
    step = len(ids) // count  # spread over the whole text
    return np.stack([np.array(ids[i * step : i * step + SEQUENCE], np.int64) for i in range(count)])
