"""Calibration of the backbone on text: what its graphs take for token ids, without a past."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from m4c.host.masks import causal_mask, positions
from m4c.models.graph import Port
from m4c.weights import part

EMBEDDING = "model.embed_tokens.weight"

Array = np.ndarray


def decoder_inputs(
    inputs: tuple[Port, ...], weights: Mapping[str, ir.TensorProtocol], tokens: Array
) -> dict[str, Array]:
    """Return the inputs of ``backbone/decoder`` for ``tokens`` (batch, sequence), embedded by the checkpoint's own table."""
    batch, sequence = tokens.shape
    rows = {i: part(weights[EMBEDDING], slice(i, i + 1))[0] for i in sorted(set(tokens.flatten().tolist()))}
    return {
        "embeds": np.stack([rows[i] for i in tokens.flatten().tolist()]).reshape(batch, sequence, -1),
        "positions": np.repeat(positions(sequence, 0), batch, axis=0),
        "mask": np.repeat(causal_mask(sequence, 0), batch, axis=0),
        **_empty(inputs, batch),
    }


def model_inputs(
    inputs: tuple[Port, ...], weights: Mapping[str, ir.TensorProtocol], tokens: Array
) -> dict[str, Array]:
    """Return the inputs of ``backbone/model`` for ``tokens`` (batch, sequence)."""
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **_empty(inputs, len(tokens))}


def _empty(inputs: tuple[Port, ...], batch: int) -> dict[str, Array]:
    """Return caches of no steps."""
    return {
        port.name: np.zeros(
            [batch if d == "batch" else 0 if d == "past" else int(d) for d in port.shape], np.float32
        )
        for port in inputs
        if port.name.startswith("past")
    }
