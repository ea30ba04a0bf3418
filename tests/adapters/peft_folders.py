"""Adapters as PEFT itself makes, saves and merges them, on a small LLaMA."""

import json
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from m4c.adapters.configuration import CONFIG
from m4c.adapters.folder import FILE
from m4c.weights import Array
from tests import tiny_backbone

Tensors = dict[str, Array]
Edit = Callable[[dict[str, Any], Tensors], None]


@cache
def base(folder: Path) -> Path:
    """Return a checkpoint of a small LLaMA in ``folder``."""
    tiny_backbone.save(folder / "base")
    return folder / "base"


def trained(
    folder: Path, checkpoint: Path, *, seed: int = 0, size: float = 0.1, **options: Any
) -> dict[str, Array]:
    """Save an adapter of random numbers to ``folder``; return the weights that PEFT merges it to."""
    from transformers import LlamaForCausalLM

    return adapt(
        LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32), folder, seed, size, **options
    )


def adapt(
    module: nn.Module, folder: Path, seed: int = 0, size: float = 0.1, **options: Any
) -> dict[str, Array]:
    """Save an adapter of ``module``, of random numbers, to ``folder``; return the weights that PEFT merges it to."""
    wrapped = peft.get_peft_model(module, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **options}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of PEFT: it saves tables too
        wrapped.save_pretrained(folder)
    return {name: values.numpy() for name, values in wrapped.merge_and_unload().state_dict().items()}


def edited(source: Path, folder: Path, edit: Edit) -> Path:
    """Copy the adapter in ``source`` to ``folder``, with its configuration and tensors changed by ``edit``."""
    shutil.copytree(source, folder)
    table = json.loads((folder / CONFIG).read_text("utf-8"))
    tensors = dict(load_file(folder / FILE))
    edit(table, tensors)
    (folder / CONFIG).write_text(json.dumps(table), "utf-8")
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / FILE)
    return folder
