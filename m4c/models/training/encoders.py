"""Train ``img_enc``, ``txt_enc``, ``aud_b_enc`` and ``imu_enc`` together: what belongs together shall point the same way.

    python -m m4c.models.training.encoders

Every step, each picture, sound and motion chooses among the texts of all labels, whose prompts are worded anew each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from m4c.host.prepare import prepare
from m4c.models.graph import Submodel
from m4c.models.training import motions, pictures, sounds
from m4c.models.training.common import chunks, fresh, halved, log, save, start, trained
from m4c.tasks import TASKS

Array = np.ndarray

STEPS, RATE = 1800, 1.5e-3
BATCH = {"img_enc": 128, "aud_b_enc": 40, "imu_enc": 64}
SMOOTHING = 0.05

WORDINGS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "img_enc": (
        (
            TASKS["T22"].prompt,
            "a photo of a {label} exists",
            "a photo of {label}",
            "a picture of {label}",
            "a picture of a {label}",
        ),
        pictures.LABELS,
    ),
    "aud_b_enc": (
        (TASKS["T36"].prompt, "the sound of {label}", "a recording of {label}"),
        sounds.LABELS,
    ),
    "imu_enc": (
        (TASKS["T38"].prompt, "the person is {label}", "someone is {label}"),
        motions.LABELS,
    ),
}
"""The wordings of a prompt and the labels of each modality; the first wording is the one that tasks use."""

NUMERALS = {word: str(number) for number, word in enumerate(pictures.DIGITS)}


@dataclass(frozen=True)
class Examples:
    """Inputs of an encoder and the places of their labels among those of its modality."""

    inputs: Tensor
    labels: Tensor


def prompts(modality: str, rng: np.random.Generator | None = None) -> list[str]:
    """Return a text for each label of a modality, worded at random, or without a generator as tasks word it."""
    wordings, labels = WORDINGS[modality]
    if rng is None:
        return [wordings[0].format(label=label) for label in labels]
    texts = []
    for label in labels:
        wording = wordings[rng.integers(len(wordings))]
        said = NUMERALS[label] if label in NUMERALS and rng.uniform() < 0.2 else label
        texts.append(wording.format(label=said))
    return texts


def tokens(text: Submodel, texts: Sequence[str]) -> Tensor:
    """Return the ids (n, context) of texts, made as a host makes them."""
    host = text.graphs[0].inputs[0].host
    return torch.from_numpy(np.concatenate([prepare(host, one) for one in texts]))


def image_examples(image: Submodel, held_out: bool, rng: np.random.Generator) -> Examples:
    """Return digits and as many shapes again, normalised."""
    host = image.graphs[0].inputs[0].host
    side = int(str(host["size"]))
    drawn = pictures.digits(side, held_out)
    shaped = pictures.shapes(side, 600 if held_out else 4000, rng)
    pixels = [*drawn.pixels, *shaped.pixels]
    made = np.concatenate([prepare(host, np.ascontiguousarray(one)) for one in pixels])
    return Examples(torch.from_numpy(made), torch.from_numpy(np.concatenate([drawn.labels, shaped.labels])))


def sound_examples(audio: Submodel, held_out: bool, rng: np.random.Generator) -> Examples:
    """Return noises, and spoken digits each with several silences around it, as filter banks."""
    host = audio.graphs[0].inputs[0].host
    made, labels = sounds.noises(300 if held_out else 1500, rng)
    dry, digits = sounds.spoken_digits(10 if held_out else 60, rng, held_out)
    times = 1 if held_out else 4
    for word in dry:
        for _ in range(times):
            before, after = (int(v) for v in rng.uniform(0, 0.3 * sounds.RATE, 2))
            made.append(sounds.finished(np.pad(word, (before, after)), rng))
    labels = np.concatenate([labels, np.repeat(digits, times)])
    features = np.concatenate([prepare(host, sound) for sound in made])
    return Examples(torch.from_numpy(features), torch.from_numpy(labels))


def motion_examples(imu: Submodel, held_out: bool, rng: np.random.Generator) -> Examples:
    """Return recordings of all activities, each as often."""
    host = imu.graphs[0].inputs[0].host
    labels = np.tile(np.arange(len(motions.LABELS)), 100 if held_out else 700)
    made = [motions.motion(motions.LABELS[label], int(str(host["samples"])), rng) for label in labels]
    features = np.concatenate([prepare(host, one) for one in made])
    return Examples(torch.from_numpy(features), torch.from_numpy(labels))


MAKERS = {"img_enc": image_examples, "aud_b_enc": sound_examples, "imu_enc": motion_examples}


class Draws:
    """Batches of one modality, each example changed a little every time."""

    def __init__(self, submodel: Submodel, examples: Examples, generator: torch.Generator) -> None:
        """Draw from ``examples`` of ``submodel``."""
        self.name, self.examples, self.generator = submodel.name, examples, generator
        host = submodel.graphs[0].inputs[0].host
        if self.name == "img_enc":
            self.mean, self.std = (torch.tensor(host[key])[:, None, None] for key in ("mean", "std"))

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return a batch of inputs and the places of their labels."""
        labels = self.examples.labels
        if self.name == "img_enc":  # half of them digits, of which there are fewer
            few, half = int((labels < 10).sum()), BATCH[self.name] // 2
            first = torch.randint(few, (half,), generator=self.generator)
            rest = torch.randint(few, len(labels), (half,), generator=self.generator)
            chosen = torch.cat([first, rest])
        else:
            chosen = torch.randint(len(labels), (BATCH[self.name],), generator=self.generator)
        return self.varied(self.examples.inputs[chosen]), labels[chosen]

    def varied(self, inputs: Tensor) -> Tensor:
        """Return inputs changed a little each."""
        match self.name:
            case "img_enc":
                pixels = inputs * self.std + self.mean
                return (pictures.varied(pixels, self.generator) - self.mean) / self.std
            case "aud_b_enc":
                louder = torch.randn((len(inputs), 1, 1, 1, 1), generator=self.generator) * 0.15
                return inputs + louder + torch.randn(inputs.shape, generator=self.generator) * 0.05
            case _:
                return inputs + torch.randn(inputs.shape, generator=self.generator) * 0.02


def aligned(inputs: Tensor, texts: Tensor) -> Tensor:
    """Return the scores (n, labels) of inputs, whose length does not matter, for texts, whose length does."""
    return functional.normalize(inputs, dim=1) @ texts.T


def main() -> None:
    """Train, measure on what was held out, and save."""
    rng = start()
    submodels = {name: fresh(name) for name in ("img_enc", "txt_enc", "aud_b_enc", "imu_enc")}
    encoders: dict[str, nn.Module] = {name: one.source.train() for name, one in submodels.items()}
    generator = torch.Generator().manual_seed(0)
    log.info("making examples")
    draws = {
        name: Draws(submodels[name], make(submodels[name], False, rng), generator)
        for name, make in MAKERS.items()
    }
    offsets = dict(
        zip(WORDINGS, np.cumsum([0, *(len(labels) for _, labels in WORDINGS.values())]), strict=False)
    )

    def loss(step: int) -> Tensor:
        texts = encoders["txt_enc"](
            tokens(submodels["txt_enc"], [t for name in WORDINGS for t in prompts(name, rng)])
        )
        total = torch.zeros(())
        for name, draw in draws.items():
            inputs, labels = draw()
            scores = aligned(encoders[name](inputs), texts)
            total = total + functional.cross_entropy(
                scores, labels + int(offsets[name]), label_smoothing=SMOOTHING
            )
        return total

    for _ in trained(encoders, STEPS, RATE, loss):
        pass
    for name, found in measured(submodels).items():
        save(submodels[name], found)


@torch.no_grad()
def measured(submodels: Mapping[str, Submodel]) -> dict[str, dict[str, float]]:
    """Return the accuracies of each encoder on what it was not trained on, as stored in float16."""
    rng = np.random.default_rng(1)
    for one in submodels.values():
        halved(one.source)
    figures: dict[str, dict[str, float]] = {"txt_enc": {}}
    for name, make in MAKERS.items():
        examples = make(submodels[name], True, rng)
        made = torch.cat([submodels[name].source(part) for part in chunks(examples.inputs)])
        texts = submodels["txt_enc"].source(tokens(submodels["txt_enc"], prompts(name)))
        scores = aligned(made, texts)
        right = (scores.argmax(1) == examples.labels).double()
        figures[name] = {"accuracy": right.mean().item()}
        if name != "imu_enc":
            digit = examples.labels < 10
            among = (scores[digit, :10].argmax(1) == examples.labels[digit]).double()
            figures[name] |= {"digits": among.mean().item(), "others": right[~digit].mean().item()}
        log.info("%s: %s", name, figures[name])
    return figures


if __name__ == "__main__":
    main()
