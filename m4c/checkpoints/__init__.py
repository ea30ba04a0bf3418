"""Checkpoints: files of weights as mappings from tensor names to lazy tensors. Opening one reads headers only."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from m4c.checkpoints import ctranslate2, safetensors, torch_file
from m4c.checkpoints.quantized import CODES, with_weights
from m4c.errors import CheckpointError, UsageError

Checkpoint = Mapping[str, ir.TensorProtocol]
"""Tensor name → lazy tensor, in the checkpoint's own names, dtypes and shapes; quantized matrices as they are used."""

PARTS = ("unet", "vae", "text_encoder")
"""Folders of a diffusers checkpoint that hold weights; their names become prefixes."""

FORMATS = "*.safetensors (single or with index), *.pt/*.pth/*.bin (torch), model.bin (CTranslate2)"


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file or a folder of weights.

    Raises:
        UsageError: if there is nothing at ``path``, or nothing of a known format.
        CheckpointError: if a file is damaged, or quantized in a way that m4c does not read.
    """
    if not path.exists():
        raise UsageError(
            f"there are no weights at {path}", fix="give --weights a file or a folder that exists"
        )
    if path.is_file():
        held = _open_file(path)
        packed = any(name.endswith(CODES) for name in held)  # else what lies beside it may not be about it
        return with_weights(held, path.parent) if packed else held
    if parts := [path / part for part in PARTS if (path / part).is_dir()]:
        return {f"{p.name}.{name}": tensor for p in parts for name, tensor in _open_quantized(p).items()}
    return _open_quantized(path)


def _open_quantized(path: Path) -> Checkpoint:
    """Open the one checkpoint in a folder, quantized or not."""
    return with_weights(_open_folder(path), path)


def _open_folder(path: Path) -> Checkpoint:
    """Open the one checkpoint in a folder: an index, else a safetensors file, else a torch or CTranslate2 file."""
    if indexes := sorted(path.glob("*.safetensors.index.json")):
        return safetensors.open_sharded(_only(indexes, path))
    for pattern in ("*.safetensors", "*.pth", "*.pt", "*.bin"):
        if files := sorted(path.glob(pattern)):
            return _open_file(_only(files, path))
    raise UsageError(f"{path} has no weights in it", fix=f"known are: {FORMATS}")


def _only(files: list[Path], folder: Path) -> Path:
    """Return the single file, or refuse to guess."""
    if len(files) > 1:
        names = ", ".join(f.name for f in files)
        raise UsageError(
            f"{folder} has several checkpoints: {names}", fix="give --weights one of these files"
        )
    return files[0]


def _open_file(path: Path) -> Checkpoint:
    """Open one file by what it begins with, not by its name."""
    with path.open("rb") as file:
        start = file.read(64)
    if path.suffix == ".json":
        return safetensors.open_sharded(path)
    if path.suffix == ".safetensors":
        return safetensors.open_file(path)
    if start.startswith(b"PK\x03\x04"):
        return torch_file.open_file(path)
    if ctranslate2.recognises(start):
        return ctranslate2.open_file(path)
    if torch_file.is_legacy(start):
        raise CheckpointError(
            f"{path} is in the format of torch before 1.6, which cannot be mapped",
            fix="load it with torch.load(..., weights_only=True) and save it again with torch.save",
        )
    raise CheckpointError(f"{path} is not a checkpoint of a known format", fix=f"known are: {FORMATS}")
