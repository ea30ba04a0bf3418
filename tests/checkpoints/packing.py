"""Matrices packed as the formats of GPTQ and AWQ are described, a code at a time, and what they stand for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""AutoAWQ's ``order_map``: which of 8 outputs is packed first, second …"""


@dataclass(frozen=True)
class Made:
    """A matrix: codes (inputs, outputs), zero points and scales (groups, outputs), and each input's group."""

    codes: Array
    zeros: Array
    scales: Array
    groups: Array
    bits: int

    def values(self) -> Array:
        """Return what it stands for, float32 (outputs, inputs), computed one by one."""
        inputs, outputs = self.codes.shape
        values = np.zeros((outputs, inputs), np.float32)
        for i in range(inputs):
            g = self.groups[i]
            for o in range(outputs):
                steps = int(self.codes[i, o]) - int(self.zeros[g, o])
                values[o, i] = np.float32(steps) * np.float32(self.scales[g, o])
        return values


def made(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    group: int,
    bits: int = 4,
    *,
    sym: bool = False,
    desc_act: bool = False,
) -> Made:
    """Return a random matrix; of zero points, the first formats can store those from 1 on."""
    size = inputs if group == -1 else group
    count, top = inputs // size, (1 << bits) - 1
    zeros = np.full((count, outputs), 1 << (bits - 1)) if sym else rng.integers(1, top + 1, (count, outputs))
    groups = np.arange(inputs) // size
    return Made(
        rng.integers(0, top + 1, (inputs, outputs)),
        zeros,
        (rng.random((count, outputs)) / 100 + 1e-3).astype(np.float16),
        rng.permutation(groups) if desc_act else groups,
        bits,
    )


def words(values: Array, bits: int, order: tuple[int, ...] | None = None) -> Array:
    """Pack the last axis of ``values`` into words, the first in the lowest bits."""
    each = 32 // bits
    order = order or tuple(range(each))
    packed = np.zeros((len(values), values.shape[1] // each), np.uint32)
    for row in range(packed.shape[0]):
        for column in range(packed.shape[1]):
            word = 0
            for place in range(each):
                word |= int(values[row, column * each + order[place]]) << (bits * place)
            packed[row, column] = word
    return packed.view(np.int32)


def gptq(name: str, matrix: Made, version: int = 1, g_idx: bool = True) -> dict[str, Array]:
    """Pack as AutoGPTQ (version 1) or GPTQModel's second format does."""
    tensors = {
        f"{name}.qweight": np.ascontiguousarray(words(matrix.codes.T, matrix.bits).T),
        f"{name}.qzeros": words(matrix.zeros - (1 if version == 1 else 0), matrix.bits),
        f"{name}.scales": matrix.scales,
    }
    return tensors | ({f"{name}.g_idx": matrix.groups.astype(np.int32)} if g_idx else {})


def awq(name: str, matrix: Made) -> dict[str, Array]:
    """Pack as AutoAWQ's ``gemm`` does."""
    return {
        f"{name}.qweight": words(matrix.codes, 4, AWQ_ORDER),
        f"{name}.qzeros": words(matrix.zeros, 4, AWQ_ORDER),
        f"{name}.scales": matrix.scales,
    }


def gptq_settings(**change: object) -> dict[str, object]:
    """Return a ``quantization_config`` as GPTQModel writes it."""
    settings = {
        "bits": 4, "group_size": 32, "desc_act": False, "sym": False, "quant_method": "gptq",
        "checkpoint_format": "gptq", "pack_dtype": "int32", "damp_percent": 0.01, "true_sequential": True,
    }  # fmt: skip
    return {**settings, **change}


def awq_settings(**change: object) -> dict[str, object]:
    """Return a ``quantization_config`` as transformers writes it."""
    settings = {"bits": 4, "group_size": 32, "quant_method": "awq", "version": "gemm", "zero_point": True}
    return {**settings, **change}


def put(folder: Path, tensors: dict[str, Array], settings: object, **config: Any) -> Path:
    """Write a folder as it is published."""
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return folder
