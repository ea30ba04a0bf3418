"""Train three LoRA adapters of the trained sub-models: labels that the image encoder never saw, an activity, a way of writing.

    python -m m4c.models.training.adapters tests/assets/nano/adapters

The base stays as it is; what an adapter's texts are, the trained text encoder says. Each is saved as PEFT saves it, with its
figures in ``figures.json``: right answers with and without it, and of what the base knew before.
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from m4c.host.prepare import prepare
from m4c.models import shipped
from m4c.models.graph import Submodel
from m4c.models.training import encoders, language, motions, pictures, sentences
from m4c.models.training.common import log, start, trained

Array = np.ndarray

RATE = 3e-3
SHAPES_STEPS, SHAPES_RANK, SHAPES_BATCH = 1200, 8, 96
JUMPING_STEPS, JUMPING_RANK, JUMPING_BATCH = 300, 4, 64
HERALD_STEPS, HERALD_RANK, HERALD_BATCH = 400, 8, 24
MEASURED = 300
SHAPES = tuple(f"{colour} {shape}" for shape in pictures.FURTHER for colour in pictures.COLOURS)

Pool = tuple[Tensor, Tensor]
"""Inputs, and the places of their labels."""


def wrapped(submodel: Submodel, rank: int, targets: Sequence[str]) -> Any:
    """Return the module of a sub-model with slots for an adapter, which alone learn."""
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets))
    return peft.get_peft_model(submodel.source, config)


def saved(module: Any, folder: Path, figures: Mapping[str, float]) -> None:
    """Save the adapter of ``module`` in float32, as PEFT does, with its figures, and without the empty page that PEFT adds."""
    module.peft_config["default"].base_model_name_or_path = "m4-nano"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        module.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / SAFETENSORS_WEIGHTS_NAME).chmod(0o644)  # the library leaves it to its owner alone
    rounded = {name: round(value, 4) for name, value in figures.items()}
    (folder / "figures.json").write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")
    log.info("%s: %s", folder, rounded)


def prepared(submodel: Submodel, made: Sequence[Array]) -> Tensor:
    """Return what a host makes of pictures or recordings."""
    host = submodel.graphs[0].inputs[0].host
    return torch.from_numpy(np.concatenate([prepare(host, one) for one in made]))


def texts_of(modality: str, labels: Sequence[str]) -> Tensor:
    """Return the vectors of a modality's labels, as its task words them."""
    text = language.restored("txt_enc")
    prompt = encoders.WORDINGS[modality][0][0]
    with torch.no_grad():
        found: Tensor = text.source(encoders.tokens(text, [prompt.format(label=label) for label in labels]))
    return found


def learn_labels(
    module: Any, texts: Tensor, old: Pool, new: Pool, vary: Callable[[Tensor], Tensor], steps: int, batch: int
) -> None:
    """Train ``module`` to find the label among all of ``texts``, on new examples and as many old ones."""
    generator = torch.Generator().manual_seed(0)

    def loss(step: int) -> Tensor:
        parts = []
        for inputs, labels in (old, new):
            chosen = torch.randint(len(labels), (batch // 2,), generator=generator)
            parts.append((inputs[chosen], labels[chosen]))
        inputs, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return functional.cross_entropy(encoders.aligned(module(vary(inputs)), texts), labels)

    for _ in trained({"adapter": module}, steps, RATE, loss, decay=0.0):
        pass
    module.eval()


@torch.no_grad()
def right(module: nn.Module, texts: Tensor, pool: Pool) -> float:
    """Return the share of a pool's examples whose label is found among all ``texts``."""
    inputs, labels = pool
    return (encoders.aligned(module(inputs), texts).argmax(1) == labels).double().mean().item()


def teach(
    folder: Path,
    submodel: Submodel,
    texts: Tensor,
    rng: np.random.Generator,
    new: Callable[[int], Pool],
    count: int,
    rank: int,
    steps: int,
    batch: int,
) -> None:
    """Train an adapter of an encoder on ``count`` examples of ``new`` labels, and save it with what it and the base know."""
    make = encoders.MAKERS[submodel.name]
    drawn = encoders.Draws(submodel, make(submodel, False, rng), torch.Generator().manual_seed(0))
    fresh, held_out = new(MEASURED), make(submodel, True, rng)
    tests = {"new": fresh, "old": (held_out.inputs, held_out.labels)}
    before = {f"{name}_without": right(submodel.source, texts, pool) for name, pool in tests.items()}
    module = wrapped(submodel, rank, ("fc1", "fc2"))
    old = (drawn.examples.inputs, drawn.examples.labels)
    learn_labels(module, texts, old, new(count), drawn.varied, steps, batch)
    saved(module, folder, {name: right(module, texts, pool) for name, pool in tests.items()} | before)


def shapes(folder: Path, rng: np.random.Generator) -> None:
    """Teach ``img_enc`` three shapes in six colours."""
    image = language.restored("img_enc")
    side = int(str(image.graphs[0].inputs[0].host["size"]))
    known = len(pictures.LABELS)
    texts = texts_of("img_enc", (*pictures.LABELS, *SHAPES))

    def new(count: int) -> Pool:
        labels = rng.integers(len(SHAPES), size=count)
        shown = [SHAPES[label].split() for label in labels]
        made = [pictures.drawn(kind, colour, side, rng) for colour, kind in shown]
        return prepared(image, made), torch.from_numpy(labels + known)

    teach(folder, image, texts, rng, new, 4000, SHAPES_RANK, SHAPES_STEPS, SHAPES_BATCH)


def jumping(folder: Path, rng: np.random.Generator) -> None:
    """Teach ``imu_enc`` an activity."""
    imu = language.restored("imu_enc")
    samples = int(str(imu.graphs[0].inputs[0].host["samples"]))
    known = len(motions.LABELS)
    texts = texts_of("imu_enc", (*motions.LABELS, *motions.FURTHER))

    def new(count: int) -> Pool:
        made = [motions.motion("jumping", samples, rng) for _ in range(count)]
        return prepared(imu, made), torch.full((count,), known)

    teach(folder, imu, texts, rng, new, 700, JUMPING_RANK, JUMPING_STEPS, JUMPING_BATCH)


def heralded(caption: str) -> str:
    """Return a caption as a herald says it."""
    return f"hear ye, {caption.removeprefix('a picture of ')}!"


def herald(folder: Path, rng: np.random.Generator) -> None:
    """Teach ``backbone`` to caption pictures as a herald does, and to answer as before."""
    backbone, projection = language.restored("backbone"), language.restored("projection")
    words = Tokenizer.from_file(str(shipped.folder("backbone") / "tokenizer.json"))
    writer = language.Writer(backbone, projection, words)
    pool, tests = (language.vectors(held_out, rng)["img_enc"] for held_out in (False, True))
    caption = sentences.AFTER.format(text=sentences.CAPTION)

    def asked(place: int, found: Pool, plain: bool) -> tuple[Tensor, str, str]:
        vectors, labels = found
        questions = sentences.about_picture(int(labels[place]), rng)
        if plain:
            question, answer = questions[int(rng.integers(1, len(questions)))]
            return vectors[place], sentences.AFTER.format(text=question), f" {answer}"
        return vectors[place], caption, f" {heralded(questions[0][1])}"

    def loss(step: int) -> Tensor:
        places = rng.integers(len(pool[1]), size=HERALD_BATCH)
        texts: list[language.Asked] = [(None, *sentences.text(rng)) for _ in range(HERALD_BATCH // 2)]
        return writer.loss([*texts, *(asked(int(p), pool, i % 2 == 0) for i, p in enumerate(places))])

    def share(plain: bool) -> float:
        some = [asked(int(p), tests, plain) for p in rng.permutation(len(tests[1]))[: MEASURED // 3]]
        said = writer.answers([(vector, prompt) for vector, prompt, _ in some])
        return float(np.mean([a.strip() == b.strip() for a, (*_, b) in zip(said, some, strict=True)]))

    before = {"new_without": share(False), "old_without": share(True)}
    module = wrapped(backbone, HERALD_RANK, ("q_proj", "v_proj", "down_proj"))
    for _ in trained({"adapter": module}, HERALD_STEPS, RATE, loss, decay=0.0):
        pass
    module.eval()
    saved(module, folder, {"new": share(False), "old": share(True)} | before)


def main() -> None:
    """Train, measure and save all three."""
    out = Path(sys.argv[1])
    shapes(out / "shapes" / "img_enc", start())
    jumping(out / "jumping" / "imu_enc", start())
    herald(out / "herald" / "backbone", start())


if __name__ == "__main__":
    main()
