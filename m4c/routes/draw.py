"""T48, text to image, over three graphs of ``img_dec``: the text once, the U-Net a step of the sampler, the VAE once.

Each step is taken with the prompt and without one, and goes further in the direction from this to that.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from m4c.bundle import Manifest
from m4c.host.diffusion import STEPS, Schedule, ddim
from m4c.host.facts import numbers
from m4c.routes.opened import open_graphs
from m4c.tasks import Task

Array = np.ndarray

GUIDANCE = 2.0
"""How much further; 1 is not at all."""


def draw(
    folder: Path, manifest: Manifest, task: Task, text: str, seed: int = 0, adapter: str | None = None
) -> Array:
    """Return a picture (height, width, 3) uint8 of what ``text`` says; another ``seed`` gives another.

    Raises:
        BundleError: if the bundle lacks a graph of the route.
    """
    reader, unet, decoder = open_graphs(folder, manifest, task.graphs, adapter)
    told, untold = reader.made(text), reader.made("")
    latent, step, states = unet.record.inputs
    (noise,) = unet.record.outputs

    def predict(now: Array, place: float) -> Array:
        at = {latent.name: now, step.name: np.full((1,), place, np.float32)}
        guided, plain = (unet.runner.run({**at, states.name: one})[noise.name] for one in (told, untold))
        return np.asarray(plain + GUIDANCE * (guided - plain))

    schedule = Schedule.of(latent.host)
    shape = [size if isinstance(size, int) else 1 for size in latent.shape]
    start = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    *_, last = ddim(predict, start, schedule, STEPS)
    (image,) = decoder.record.outputs
    made = decoder.runner.run(
        {decoder.record.inputs[0].name: np.asarray(last / schedule.scaling, np.float32)}
    )
    low, high = numbers(image.host, "range", (-1.0, 1.0))
    pixels = (made[image.name][0].transpose(1, 2, 0) - low) / (high - low)
    return np.asarray((pixels.clip(0, 1) * 255).round(), np.uint8)


def write_png(path: Path, pixels: Array) -> None:
    """Write ``pixels`` (height, width, 3) uint8 as a PNG file."""
    Image.fromarray(pixels).save(path, format="PNG")
