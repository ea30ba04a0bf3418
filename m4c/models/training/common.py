"""What every part of the training does alike: first weights, the learning rate, and writing the file."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from m4c.models import build, shipped
from m4c.models.graph import Submodel

PRESET = "m4-nano"
SEED = 0
BETAS = (0.9, 0.98)

log = logging.getLogger(__name__)


def start(
    seed: int = SEED, threads: int = int(os.environ.get("OMP_NUM_THREADS", "2"))
) -> np.random.Generator:
    """Seed everything that draws numbers, and return a generator."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    return np.random.default_rng(seed)


def fresh(name: str) -> Submodel:
    """Return a sub-model of ``m4-nano`` with weights to train from: matrices small and random, norms 1, biases 0."""
    submodel = build(name, PRESET)
    for key, parameter in submodel.source.named_parameters():
        _first(key, parameter)
    return submodel


def source(submodel: Submodel) -> Any:
    """Return the module of a sub-model, whose parts only a running program knows."""
    return submodel.source


def _first(key: str, parameter: Tensor) -> None:
    """Give a parameter its first value."""
    with torch.no_grad():
        if key.endswith("log_logit_scale") or key.endswith("alpha"):
            return  # scalars come with theirs
        if key.endswith("bias") or key.endswith("in_proj_bias"):
            parameter.zero_()
        elif parameter.dim() == 1:
            parameter.fill_(1.0)
        elif parameter.dim() == 2 and "embed" not in key:
            nn.init.xavier_uniform_(parameter)
        elif parameter.dim() > 3 or key.endswith("conv.weight"):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        else:
            nn.init.normal_(parameter, std=0.02)


def trained(
    modules: Mapping[str, nn.Module],
    steps: int,
    rate: float,
    loss: Callable[[int], Tensor],
    *,
    decay: float = 0.05,
    warmup: int = 100,
    told: int = 100,
) -> Iterator[int]:
    """Train ``modules`` for ``steps`` steps by AdamW and yield each step when it is done: a warm-up, then half a cosine."""
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=BETAS, weight_decay=decay)
    mean = 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                rate * min(1.0, (step + 1) / warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
            )
        value = loss(step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean += value.item()
        if (step + 1) % told == 0:
            log.info("step %d: loss %.4f", step + 1, mean / told)
            mean = 0.0
        yield step


def save(submodel: Submodel, figures: Mapping[str, float]) -> Path:
    """Write the weights of a sub-model to the package in float16, with ``figures`` in the file's own metadata."""
    path = shipped.folder(submodel.name) / shipped.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in submodel.source.state_dict().items()
        if name not in submodel.tied and not name.endswith("num_batches_tracked")
    }
    rounded = {name: round(value, 4) for name, value in figures.items()}
    save_file(tensors, path, {"figures": json.dumps(rounded), "licence": shipped.LICENCE})
    path.chmod(0o644)  # the library leaves it to its owner alone
    log.info("%s: %d bytes, %s", path, path.stat().st_size, rounded)
    return path


def halved(module: nn.Module) -> nn.Module:
    """Round all floats of ``module`` to float16, as :func:`save` stores them, and put it into evaluation."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    return module.eval()


def chunks(array: Tensor, size: int = 256) -> Iterator[Tensor]:
    """Yield ``array`` in pieces of at most ``size`` rows."""
    yield from torch.split(array, size)
