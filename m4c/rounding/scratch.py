"""Quantized matrices in files of a scratch folder, where they wait until they are written to where they belong."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m4c.blockwise import Blocks, BlockwiseWeight, from_nibbles, nibbles
from m4c.grid import Grid
from m4c.weights import Array


def keep(name: str, blocks: Blocks, grid: Grid, folder: Path) -> BlockwiseWeight:
    """Write ``blocks``, all rows of the matrix ``name``, into ``folder``; return the matrix, read from there."""
    rows, inputs = blocks.codes.shape
    parts = {
        "codes": nibbles(blocks.codes) if grid.bits == 4 else blocks.codes,
        "scales": blocks.scales,
        "zeros": blocks.zeros,
    }
    paths = {part: folder / f"{name}.{part}.npy" for part in parts}
    for part, tensor in parts.items():
        np.save(paths[part], tensor.numpy())

    def read(stretch: slice) -> Blocks:
        codes = _part(paths["codes"], stretch)
        if grid.bits == 4:
            codes = from_nibbles(codes, inputs)
        return Blocks(codes, _part(paths["scales"], stretch), _part(paths["zeros"], stretch))

    return BlockwiseWeight(name, (rows, inputs), grid, read)


def _part(path: Path, rows: slice) -> Tensor:
    """Read some rows of an array."""
    mapped: Array = np.load(path, mmap_mode="r")
    return torch.from_numpy(np.array(mapped[rows]))
