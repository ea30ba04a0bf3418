"""Train ``img_dec`` to draw digits and coloured shapes: the VAE and the text encoder first, then this and the U-Net together.

python -m m4c.models.training.drawing
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.host.diffusion import Schedule, ddim
from m4c.host.prepare import prepare
from m4c.models.graph import Submodel
from m4c.models.training import encoders, pictures
from m4c.models.training.common import SEED, chunks, fresh, halved, save, source, start, trained
from m4c.models.training.language import restored

Array = np.ndarray

VAE_STEPS, VAE_RATE, VAE_BATCH = 1200, 2e-3, 8
READING_STEPS, READING_RATE, READING_BATCH = 400, 2e-3, 64
STEPS, RATE, BATCH = 5000, 2e-3, 64
TAKES = 4
"""How often each picture is encoded, varied a little each time."""
PRIOR = 5e-4
"""Weight of the latents' distance from a normal distribution."""
WORDLESS = 0.1
"""Share of the drawings that are learned without a prompt, for guidance."""
AVERAGE = 0.998
"""What the averaged weights keep of themselves in a step."""
WORDINGS = ("{}", "a {}", "a picture of {}", "a picture of a {}", "a photo of a {}")
GUIDANCE, DRAW_STEPS = 2.0, 20
"""With which drawings are measured."""


def ports(model: Submodel) -> dict[str, dict[str, object]]:
    """Return what the host knows of the inputs of the four graphs, by name."""
    return {port.name: dict(port.host) for graph in model.graphs for port in graph.inputs if port.host}


def examples(model: Submodel, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return pictures (n, 3, side, side) in [0, 1] and their labels: digits, and about as many shapes."""
    side = int(str(ports(model)["image"]["size"]))
    drawn = pictures.digits(side, held_out=False)
    shaped = pictures.shapes(side, 1500, rng)
    pixels = np.concatenate([drawn.pixels, shaped.pixels]).transpose(0, 3, 1, 2)
    return torch.from_numpy(pixels / np.float32(255)), torch.from_numpy(
        np.concatenate([drawn.labels, shaped.labels])
    )


def train_vae(vae: Any, pixels: Tensor, generator: torch.Generator) -> None:
    """Train the VAE on pictures, varied a little each time."""

    def loss(step: int) -> Tensor:
        chosen = pixels[torch.randint(len(pixels), (VAE_BATCH,), generator=generator)]
        image = pictures.varied(chosen, generator, 0.5) * 2 - 1
        mean, logs = vae.quant_conv(vae.encoder(image)).chunk(2, 1)
        logs = logs.clamp(-10, 5)
        drawn = vae.decode(mean + torch.randn(mean.shape, generator=generator) * (logs / 2).exp()).sample
        prior = (mean.square() + logs.exp() - 1 - logs).mean() / 2
        total: Tensor = (
            functional.mse_loss(drawn, image) + functional.l1_loss(drawn, image) / 2 + PRIOR * prior
        )
        return total

    vae.train()
    for _ in trained({"vae": vae}, VAE_STEPS, VAE_RATE, loss, decay=0.0):
        pass
    vae.eval()


@torch.no_grad()
def latents(vae: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the means of the latents of pictures, each varied ``TAKES`` times: rows of a take after another."""
    made = []
    for _ in range(TAKES):
        for part in chunks(pixels, 64):
            image = pictures.varied(part, generator, 0.5) * 2 - 1
            made.append(vae.quant_conv(vae.encoder(image)).chunk(2, 1)[0])
    return torch.cat(made)


@torch.no_grad()
def standardize(vae: Any, found: Tensor, scaling: float) -> Tensor:
    """Turn the latents so that ``scaling`` times them has mean 0 and variance 1 in each channel; return these.

    The convolutions around the latents take the change over: what the VAE draws stays the same.
    """
    mean, spread = found.mean((0, 2, 3)), found.std((0, 2, 3)) * scaling
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight *= spread[None, :, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / spread
    into.weight[:channels] /= spread[:, None, None, None]
    into.bias[channels:] -= 2 * spread.log()
    made: Tensor = (found - mean[:, None, None]) / spread[:, None, None] * scaling
    return made


def tokens(model: Submodel, texts: Sequence[str]) -> Tensor:
    """Return the ids (n, context) of prompts."""
    return torch.from_numpy(np.concatenate([prepare(ports(model)["tokens"], text) for text in texts]))


def prompt(label: int, rng: np.random.Generator) -> str:
    """Return a prompt for a label, at times none."""
    if rng.uniform() < WORDLESS:
        return ""
    said = pictures.LABELS[label]
    if label < 10 and rng.uniform() < 0.3:
        said = str(label)
    return WORDINGS[rng.integers(len(WORDINGS))].format(said)


def train_reader(model: Submodel, rng: np.random.Generator) -> None:
    """Train the text encoder to tell labels by its last state, so that the U-Net has something to attend to from the start."""
    text, head = (
        model.graphs[0].module,
        nn.Linear(source(model).text_encoder.config.hidden_size, len(pictures.LABELS)),
    )

    def loss(step: int) -> Tensor:
        labels = rng.integers(0, len(pictures.LABELS), READING_BATCH)
        states = text(tokens(model, [prompt(int(label), rng) or pictures.LABELS[label] for label in labels]))
        return functional.cross_entropy(head(states[:, -1]), torch.from_numpy(labels))

    for _ in trained({"text": source(model).text_encoder, "head": head}, READING_STEPS, READING_RATE, loss):
        pass


def train_unet(model: Submodel, found: Tensor, labels: Tensor, rng: np.random.Generator) -> None:
    """Train text encoder and U-Net to tell the noise in latents; what is left in ``model`` are averages over the steps."""
    whole, generator = source(model), torch.Generator().manual_seed(SEED)
    kept = torch.from_numpy(Schedule.of(ports(model)["latent"]).kept()).float()
    text, unet = model.graphs[0].module, whole.unet

    def loss(step: int) -> Tensor:
        chosen = torch.randint(len(found), (BATCH,), generator=generator)
        steps = torch.randint(len(kept), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *found.shape[1:]), generator=generator)
        share = kept[steps][:, None, None, None]
        noisy = share.sqrt() * found[chosen] + (1 - share).sqrt() * noise
        texts = [prompt(int(labels[i % len(labels)]), rng) for i in chosen]
        guessed = unet(noisy, steps, text(tokens(model, texts)), return_dict=False)[0]
        return functional.mse_loss(guessed, noise)

    modules = {"text": whole.text_encoder, "unet": unet}
    averages = {name: copy.deepcopy(module) for name, module in modules.items()}
    for step in trained(modules, STEPS, RATE, loss, decay=0.01):
        share = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, average in averages.items():
                for held, new in zip(average.parameters(), modules[name].parameters(), strict=True):
                    held.lerp_(new, 1 - share)
    for name, average in averages.items():
        modules[name].load_state_dict(average.state_dict())


@torch.no_grad()
def draw(model: Submodel, texts: Sequence[str], seed: int) -> Tensor:
    """Return pictures (n, 3, side, side) in [0, 1] of prompts."""
    both = model.graphs[0].module(tokens(model, [*texts, *[""] * len(texts)]))
    schedule = Schedule.of(ports(model)["latent"])

    def predict(latent: Array, step: float) -> Array:
        twice = torch.from_numpy(latent).repeat(2, 1, 1, 1)
        told, untold = (
            source(model).unet(twice, torch.full((len(twice),), step), both, return_dict=False)[0].chunk(2)
        )
        return np.asarray(untold + GUIDANCE * (told - untold))

    side = source(model).unet.config.sample_size
    noise = np.random.default_rng(seed).standard_normal((len(texts), 4, side, side)).astype(np.float32)
    *_, last = ddim(predict, noise, schedule, DRAW_STEPS)
    image = source(model).vae.decode(torch.from_numpy(last) / schedule.scaling).sample
    drawn: Tensor = (image / 2 + 0.5).clamp(0, 1)
    return drawn


def main() -> None:
    """Train, measure and save."""
    rng = start()
    model = fresh("img_dec")
    generator = torch.Generator().manual_seed(SEED)
    pixels, labels = examples(model, rng)
    train_vae(source(model).vae, pixels, generator)
    found = latents(source(model).vae, pixels, generator)
    found = standardize(source(model).vae, found, Schedule.of(ports(model)["latent"]).scaling)
    train_reader(model, rng)
    train_unet(model, found, labels, rng)
    halved(model.source)
    save(model, {})
    save(model, measured(model, pixels))


@torch.no_grad()
def measured(model: Submodel, pixels: Tensor) -> dict[str, float]:
    """Return how many drawings the image encoder takes for what was asked for, and the VAE's mean square error."""
    image, text = restored("img_enc"), restored("txt_enc")
    texts = text.source(encoders.tokens(text, encoders.prompts("img_enc")))
    labels = [label for label in range(len(pictures.LABELS)) for _ in range(10 if label < 10 else 2)]
    drawn = draw(model, [f"a {pictures.LABELS[label]}" for label in labels], 1)
    host = image.graphs[0].inputs[0].host
    made = [prepare(host, (one.permute(1, 2, 0) * 255).byte().numpy()) for one in drawn]
    scores = encoders.aligned(image.source(torch.from_numpy(np.concatenate(made))), texts)
    right = (scores.argmax(1) == torch.tensor(labels)).double()
    vae, some = source(model).vae, pixels[::20] * 2 - 1
    again = vae.decode(vae.quant_conv(vae.encoder(some)).chunk(2, 1)[0]).sample
    return {
        "digits": right[:100].mean().item(),
        "shapes": right[100:].mean().item(),
        "vae_error": functional.mse_loss(again, some).item(),
    }


if __name__ == "__main__":
    main()
