"""Train ``backbone`` as a small language model together with ``projection``; ``gen_dec`` is its output layer.

    python -m m4c.models.training.language

It reads texts of :mod:`m4c.models.training.sentences`, and prompts in which a vector stands for a picture, a sound or a motion:
what the trained encoders make of it, brought to length 1 and projected. The encoders stay as they are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional

from m4c.host.masks import causal_mask
from m4c.models import build, shipped
from m4c.models.graph import Submodel
from m4c.models.training import encoders, sentences
from m4c.models.training.common import PRESET, chunks, fresh, halved, log, save, source, start, trained

Array = np.ndarray

STEPS, LEARNING_RATE, TEXTS = 2400, 3e-3, 32
MEDIA_STEPS, MEDIA_RATE, MEDIA_TEXTS, MEDIA = 800, 1.5e-3, 12, 24
TAKES = 4
"""How often each example goes through its encoder, changed a little each time."""
IGNORED = -100
SPECIAL = ("<unk>", "<s>", "</s>")
"""The ids 0 to 2, as in LLaMA's vocabulary."""
HELD_OUT = 200

Asked = tuple[Tensor | None, str, str]
"""A vector or none, a prompt, and what follows it."""


def tokenizer(vocabulary: int, rng: np.random.Generator) -> Tokenizer:
    """Return a byte-level BPE tokenizer of ``vocabulary`` tokens, learned from the texts; it puts ``<s>`` in front."""
    made = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    spoken = ["".join(sentences.text(rng)) for _ in range(6000)]
    asked = [
        sentences.AFTER.format(text=q) + " " + a
        for label in range(46)
        for q, a in sentences.about_picture(label, rng)
    ]
    asked += [
        sentences.AFTER.format(text=q) + " " + a
        for label in range(20)
        for q, a in sentences.about_sound(label)
    ]
    asked += [
        sentences.AFTER.format(text=q) + " " + a
        for label in range(8)
        for q, a in sentences.about_motion(label)
    ]
    made.train_from_iterator(
        [*spoken, *asked * 10, sentences.BEFORE],
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[*SPECIAL],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


def restored(name: str) -> Submodel:
    """Return a trained sub-model, to be used as it is."""
    submodel = build(name, PRESET)
    stored = {key: tensor.float() for key, tensor in load_file(shipped.folder(name) / shipped.FILE).items()}
    submodel.source.load_state_dict(stored, strict=False)
    return Submodel(
        submodel.name, submodel.source.eval().requires_grad_(False), submodel.graphs, submodel.licence
    )


@torch.no_grad()
def vectors(held_out: bool, rng: np.random.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each encoder vectors (n, embedding) of length 1, and the places of their labels."""
    made = {}
    for name, make in encoders.MAKERS.items():
        submodel = restored(name)
        examples = make(submodel, held_out, rng)
        draws = encoders.Draws(submodel, examples, torch.Generator().manual_seed(0))
        inputs = [examples.inputs] if held_out else [draws.varied(examples.inputs) for _ in range(TAKES)]
        found = torch.cat([submodel.source(part) for one in inputs for part in chunks(one)])
        made[name] = functional.normalize(found, dim=1), examples.labels.repeat(len(inputs))
    return made


def asked_of(name: str, label: int, rng: np.random.Generator | None) -> list[tuple[str, str]]:
    """Return the questions that can be asked of an example, the caption first."""
    match name:
        case "img_enc":
            return sentences.about_picture(label, rng)
        case "aud_b_enc":
            return sentences.about_sound(label)
        case _:
            return sentences.about_motion(label)


class Writer:
    """Backbone and projection as one model, over the graphs that are exported."""

    def __init__(self, backbone: Submodel, projection: Submodel, words: Tokenizer) -> None:
        """Take both sub-models and the tokenizer."""
        self.backbone, self.projection, self.words = backbone, projection, words
        decoder = backbone.graphs[1]
        self.embed, self.decoder, self.project = (
            backbone.graphs[0].module,
            decoder.module,
            projection.graphs[0].module,
        )
        self.pasts = [port for port in decoder.inputs if port.name.startswith("past_")]

    def prompt(self, vector: Tensor | None, text: str) -> tuple[list[int], int | None]:
        """Return the ids of a prompt, and where the vector stands: its id there means nothing."""
        if vector is None:
            return self.words.encode(text).ids, None
        before = self.words.encode(sentences.BEFORE).ids
        return [*before, 0, *self.words.encode(text, add_special_tokens=False).ids], len(before)

    def scores(
        self, rows: Sequence[list[int]], slots: Sequence[int | None], given: Sequence[Tensor | None]
    ) -> Tensor:
        """Return the scores (n, longest, vocabulary) of rows of ids, with the projected vectors in their slots."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[2] * (longest - len(row))] for row in rows])
        embeds = self.embed(ids)
        held = [i for i, vector in enumerate(given) if vector is not None]
        if held:
            projected = self.project(torch.stack([vector for vector in given if vector is not None]))[:, 0]
            places = torch.tensor([slots[i] for i in held])
            embeds = embeds.index_put((torch.tensor(held), places), projected)
        mask = torch.from_numpy(causal_mask(longest, 0))
        empty = [torch.zeros(len(rows), port.shape[1], 0, port.shape[3]) for port in self.pasts]  # type: ignore[arg-type]
        logits: Tensor = self.decoder(embeds, torch.arange(longest)[None], mask, *empty)[0]
        return logits

    def loss(self, asked: Sequence[Asked]) -> Tensor:
        """Return the mean cross entropy of what follows the prompts; texts without a prompt count whole."""
        rows, slots, targets = [], [], []
        for vector, prompt, answer in asked:
            ids, slot = self.prompt(vector, prompt)
            said = self.words.encode(answer, add_special_tokens=False).ids
            whole = [*ids, *said, 2]
            known = 1 if vector is None else len(ids)  # what stands around a vector is always the same
            rows.append(whole)
            slots.append(slot)
            targets.append([IGNORED] * (known - 1) + whole[known:])
        logits = self.scores([row[:-1] for row in rows], slots, [vector for vector, _, _ in asked])
        wanted = torch.tensor([[*t, *[IGNORED] * (logits.shape[1] - len(t))] for t in targets])
        return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    @torch.no_grad()
    def answers(self, asked: Sequence[tuple[Tensor | None, str]], most: int = 24) -> list[str]:
        """Return what the model writes after each prompt, greedily."""
        said = []
        for vector, prompt in asked:
            ids, slot = self.prompt(vector, prompt)
            start = len(ids)
            while len(ids) - start < most:
                best = int(self.scores([ids], [slot], [vector])[0, -1].argmax())
                if best == 2:
                    break
                ids = [*ids, best]
            said.append(self.words.decode(ids[start:]))
        return said


def media_batch(found: dict[str, tuple[Tensor, Tensor]], count: int, rng: np.random.Generator) -> list[Asked]:
    """Return ``count`` questions about examples, half of them about pictures."""
    batch: list[Asked] = []
    for i in range(count):
        name = "img_enc" if i % 2 else ("aud_b_enc", "imu_enc")[rng.integers(2)]
        vectors_, labels = found[name]
        place = int(rng.integers(len(labels)))
        questions = asked_of(name, int(labels[place]), rng)
        question, answer = questions[0] if rng.uniform() < 0.4 else questions[rng.integers(len(questions))]
        batch.append((vectors_[place], sentences.AFTER.format(text=question), f" {answer}"))
    return batch


def learn_texts(writer: Writer, rng: np.random.Generator) -> None:
    """Train the backbone on texts alone."""

    def loss(step: int) -> Tensor:
        return writer.loss([(None, *sentences.text(rng)) for _ in range(TEXTS)])

    for _ in trained({"backbone": writer.backbone.source}, STEPS, LEARNING_RATE, loss):
        pass


def learn_media(writer: Writer, found: dict[str, tuple[Tensor, Tensor]], rng: np.random.Generator) -> None:
    """Train the projection, and the backbone with it, on questions about the vectors ``found``, and on some texts."""

    def loss(step: int) -> Tensor:
        texts: list[Asked] = [(None, *sentences.text(rng)) for _ in range(MEDIA_TEXTS)]
        return writer.loss([*texts, *media_batch(found, MEDIA, rng)])

    modules = {"backbone": writer.backbone.source, "projection": writer.projection.source}
    for _ in trained(modules, MEDIA_STEPS, MEDIA_RATE, loss):
        pass


def main() -> None:
    """Train, measure and save."""
    rng = start()
    backbone = fresh("backbone")
    writer = Writer(backbone, fresh("projection"), tokenizer(source(backbone).config.vocab_size, rng))
    learn_texts(writer, rng)
    learn_media(writer, vectors(False, rng), rng)
    finish(writer)


def finish(writer: Writer) -> None:
    """Measure and save."""
    for one in (writer.backbone, writer.projection):
        halved(one.source)
    head = build("gen_dec", PRESET)
    source(head)["lm_head"].weight = source(writer.backbone).lm_head.weight
    figures = measured(writer)
    folder = save(writer.backbone, {k: v for k, v in figures.items() if ":" not in k}).parent
    save(writer.projection, {k: v for k, v in figures.items() if ":" in k})
    save(head, {})
    writer.words.save(str(folder / "tokenizer.json"))


def measured(writer: Writer) -> dict[str, float]:
    """Return the share of right answers, task by task, on texts and examples that were not trained on."""
    rng = np.random.default_rng(1)
    figures: dict[str, float] = {}
    for ask in (sentences.where_is, sentences.sentiment, sentences.translation):
        asked = [ask(rng) for _ in range(HELD_OUT)]
        said = writer.answers([(None, prompt) for prompt, _ in asked])
        figures[ask.__name__] = _share(said, [answer for _, answer in asked])
    found = vectors(True, rng)
    for name, (given, labels) in found.items():
        places = rng.permutation(len(labels))[:HELD_OUT]
        caption = [asked_of(name, int(labels[p]), rng)[0] for p in places]
        said = writer.answers([(given[p], sentences.AFTER.format(text=sentences.CAPTION)) for p in places])
        figures[f"caption:{name}"] = _share(said, [answer for _, answer in caption])
        others = [(p, *q) for p in places for q in asked_of(name, int(labels[p]), rng)[1:]][:HELD_OUT]
        said = writer.answers([(given[p], sentences.AFTER.format(text=q)) for p, q, _ in others])
        figures[f"questions:{name}"] = _share(said, [answer for *_, answer in others])
    log.info("%s", figures)
    return figures


def _share(said: Sequence[str], wanted: Sequence[str]) -> float:
    for pair in list(zip(said, wanted, strict=True))[:3]:
        log.info("%s", pair)
    return float(np.mean([a.strip() == b.strip() for a, b in zip(said, wanted, strict=True)]))


if __name__ == "__main__":
    main()
