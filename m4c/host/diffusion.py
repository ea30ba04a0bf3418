"""The sampler of a diffusion model: from noise to a latent image, in a few of the steps that the model was trained on.

DDIM (Song et al., 2020) without noise of its own: the start decides, so equal seeds give equal pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from m4c.host import facts
from m4c.host.facts import Host

STEPS = 20
"""In how many steps pictures are made."""

Array = np.ndarray
Predict = Callable[[Array, float], Array]
"""Takes a latent image and a step, gives the noise in it."""


@dataclass(frozen=True)
class Schedule:
    """How much noise a step has; the defaults are Stable Diffusion's."""

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    scaling: float = 0.18215
    """From the VAE's latents to those of the U-Net."""

    @classmethod
    def of(cls, host: Host) -> Self:
        """Return the schedule that a manifest gives an input of kind ``diffusion-latent``.

        Raises:
            BundleError: if it is of another kind than this sampler knows.
        """
        if host.get("beta_schedule") != "scaled_linear":
            raise facts.wrong(host, "beta_schedule", "scaled_linear")
        if host.get("prediction") != "epsilon":
            raise facts.wrong(host, "prediction", "epsilon")
        return cls(
            train_steps=facts.whole(host, "train_steps", cls.train_steps),
            beta_start=facts.number(host, "beta_start", cls.beta_start),
            beta_end=facts.number(host, "beta_end", cls.beta_end),
            scaling=facts.number(host, "scaling", cls.scaling),
        )

    def kept(self) -> Array:
        """Return the share of the signal's variance (train_steps,) that is left at each step."""
        betas = np.linspace(np.sqrt(self.beta_start), np.sqrt(self.beta_end), self.train_steps) ** 2
        return np.asarray(np.cumprod(1 - betas))


def ddim(predict: Predict, start: Array, schedule: Schedule, steps: int) -> Iterator[Array]:
    """Yield the latent image after each of ``steps`` steps, from the noise ``start`` on; float32 like it."""
    kept = schedule.kept()
    places = np.linspace(schedule.train_steps - 1, 0, steps + 1).round().astype(int)
    latent = start
    for now, then in pairwise(places):
        noise = predict(latent, float(now))
        clean = (latent - np.sqrt(1 - kept[now]) * noise) / np.sqrt(kept[now])
        latent = np.asarray(np.sqrt(kept[then]) * clean + np.sqrt(1 - kept[then]) * noise, np.float32)
        yield latent
