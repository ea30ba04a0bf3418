"""Train ``tts_dec`` to speak short phrases letter by letter, as one voice of espeak-ng does.

python -m m4c.models.training.speaker
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m4c.host.griffin_lim import MelSettings, griffin_lim, log_mel_magnitude
from m4c.host.masks import HIDDEN, causal_mask
from m4c.host.phonemes import SPECIAL
from m4c.host.prepare import prepare
from m4c.models import shipped
from m4c.models.graph import Submodel
from m4c.models.training.common import fresh, halved, log, save, source, start, trained
from m4c.models.training.pictures import DIGITS
from m4c.models.training.sentences import commands, phrase
from m4c.models.training.speech import Utterance, spoken_all

Array = np.ndarray

STEPS, LEARNING_RATE, BATCH = 3000, 2e-3, 24
PHRASES = 500
VOICE, SPEED, PITCH = "en-us", 150, 50
DROPOUT = 0.5
"""In the prenet, while training: the model shall not rely on the last frame alone."""
NOISE = 0.2
"""Added to the frames that are given, for the same."""
NEAR = 0.2
"""Letters are heard about in their order: how far from the diagonal attention may look without being fined."""
SYMBOLS = (*string.ascii_lowercase, "|", "'")


@dataclass(frozen=True)
class Batch:
    """Phrases and how they sound, padded to one length."""

    phonemes: Tensor
    keep: Tensor
    frames: Tensor
    """(n, steps, features), normalised."""
    steps: Tensor
    """How many steps each has."""

    def of(self, chosen: Tensor) -> "Batch":
        """Return some rows, no longer than they need to be."""
        steps = self.steps[chosen]
        most = int(steps.max())
        return Batch(self.phonemes[chosen], self.keep[chosen], self.frames[chosen, :most], steps)


def host(model: Submodel) -> dict[str, object]:
    """Return how ids are made of a phrase; the symbols are those of this file."""
    given = dict(model.graphs[0].inputs[0].host)
    return {**{k: v for k, v in given.items() if k != "asset"}, "symbols": (*SPECIAL, *SYMBOLS)}


def settings(model: Submodel) -> tuple[MelSettings, float, float, int]:
    """Return the spectrogram's settings, the mean and the spread of its values, and the frames of a step."""
    facts = model.graphs[2].inputs[0].host
    mean, std = float(str(facts["mean"])), float(str(facts["std"]))
    return MelSettings.of(facts), mean, std, int(str(facts["frames_per_step"]))


def batch(model: Submodel, texts: Sequence[str], sounds: Sequence[Array]) -> Batch:
    """Return phrases and their sounds, made as a host makes them."""
    form, mean, std, each = settings(model)
    phonemes = torch.from_numpy(np.concatenate([prepare(host(model), text) for text in texts]))
    mels = [(log_mel_magnitude(sound, form) - mean) / std for sound in sounds]
    steps = [-(-len(mel) // each) for mel in mels]
    silence = (np.log(form.floor) - mean) / std
    frames = np.full((len(mels), max(steps), each * form.bins), silence, np.float32)
    for row, mel in zip(frames, mels, strict=True):
        row.reshape(-1, form.bins)[: len(mel)] = mel
    keep = (phonemes != 1).float()[:, None]
    return Batch(phonemes, keep, torch.from_numpy(frames), torch.tensor(steps))


class Speaker:
    """The four graphs, called as in training, with the attention to the letters kept to be looked at."""

    def __init__(self, model: Submodel) -> None:
        """Take the sub-model."""
        self.encoder, self.cross, self.decoder, self.postnet = (graph.module for graph in model.graphs)
        decoder = source(model).decoder
        self.layers = decoder.transformer_layers
        self.queries: list[Tensor] = []
        for layer in self.layers:
            layer.encoder_attn.q_proj.register_forward_hook(lambda m, i, out: self.queries.append(out))
        for layer in decoder.prenet[0].layers:
            layer.register_forward_hook(lambda m, i, out: functional.dropout(out, DROPOUT, m.training))

    def letters(self, some: Batch) -> tuple[list[Tensor], Tensor]:
        """Return keys and values of what is to be said, and the mask of its padding."""
        mask = torch.where(some.keep[:, None] > 0, 0.0, float(HIDDEN))
        return list(self.cross(self.encoder(some.phonemes, some.keep, mask))), mask

    def __call__(self, some: Batch, noise: float) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return the next frames of each step, refined ones, stop scores, and the attentions (n, heads, steps, letters)."""
        crosses, cross_mask = self.letters(some)
        n, steps, features = some.frames.shape
        given = torch.cat([torch.zeros(n, 1, features), some.frames[:, :-1]], 1)
        given = given + torch.randn(given.shape) * noise
        heads, width = crosses[0].shape[1], crosses[0].shape[3]
        empty = [torch.zeros(n, heads, 0, width) for _ in crosses]
        self.queries.clear()
        mask = torch.from_numpy(causal_mask(steps, 0))
        made, stop, *_ = self.decoder(given, torch.arange(steps)[None], mask, cross_mask, *empty, *crosses)
        looked = []
        for query, key in zip(self.queries, crosses[::2], strict=True):
            split = query.view(n, steps, heads, width).transpose(1, 2)
            looked.append(torch.softmax(split @ key.transpose(2, 3) * width**-0.5 + cross_mask, -1))
        real = (torch.arange(steps)[None] < some.steps[:, None]).float()[:, None]
        return made, self.postnet(made, real), stop[..., 0], looked

    @torch.no_grad()
    def say(self, some: Batch, most: int) -> list[Tensor]:
        """Return the refined frames (steps, features) of each phrase, a step after the other until it stops."""
        crosses, cross_mask = self.letters(some)
        n, heads, width = len(some.phonemes), crosses[0].shape[1], crosses[0].shape[3]
        pasts = [torch.zeros(n, heads, 0, width) for _ in crosses]
        frame, made, length = torch.zeros(n, 1, some.frames.shape[2]), [], torch.full((n,), most)
        for step in range(most):
            mask = torch.zeros(1, 1, 1, step + 1)
            frame, stop, *pasts = self.decoder(
                frame, torch.tensor([[step]]), mask, cross_mask, *pasts, *crosses
            )
            made.append(frame)
            ends = (stop[:, 0, 0] > 0) & (length == most)
            length[ends] = step + 1
            if (length < most).all():
                break
        features = torch.cat(made, 1)
        return [
            self.postnet(row[None, :count], torch.ones(1, 1, int(count)))[0]
            for row, count in zip(features, length, strict=True)
        ]


def fine(looked: Sequence[Tensor], some: Batch) -> Tensor:
    """Return how far attentions are from the diagonal, as guided attention has it (Tachibana et al., 2017)."""
    letters = some.keep.sum(2)  # (n, 1)
    where = torch.arange(some.keep.shape[2])[None] / letters
    when = torch.arange(looked[0].shape[2])[None] / some.steps[:, None]
    far = 1 - torch.exp(-((when[:, :, None] - where[:, None]).square()) / (2 * NEAR**2))
    real = (when < 1).float()[:, None, :, None]
    return sum(
        ((one * far[:, None] * real).sum() / real.expand_as(one[..., :1]).sum() for one in looked),
        torch.zeros(()),
    )


def main() -> None:
    """Train, measure and save."""
    rng = start()
    model = fresh("tts_dec")
    texts = sorted({*DIGITS, *commands(), *(phrase(rng) for _ in range(PHRASES))})
    rng.shuffle(texts)
    held, texts = texts[:40], texts[40:]
    form, *_ = settings(model)
    log.info("speaking")
    said = [Utterance(text, VOICE, SPEED, PITCH) for text in (*held, *texts)]
    whole = batch(model, [*held, *texts], spoken_all(said, form.rate))
    log.info(
        "%d phrases, %d steps, frames %.2f ± %.2f",
        len(texts),
        whole.frames.shape[1],
        whole.frames.mean(),
        whole.frames.std(),
    )
    speaker, generator = Speaker(model), torch.Generator().manual_seed(0)

    def loss(step: int) -> Tensor:
        some = whole.of(len(held) + torch.randint(len(texts), (BATCH,), generator=generator))
        made, refined, stop, looked = speaker(some, NOISE)
        real = (torch.arange(made.shape[1])[None] < some.steps[:, None]).float()
        last = (torch.arange(made.shape[1])[None] == some.steps[:, None] - 1).float()
        errors = sum(
            (m - some.frames).square().mean(2) + (m - some.frames).abs().mean(2) for m in (made, refined)
        )
        ends = functional.binary_cross_entropy_with_logits(
            stop, last, reduction="none", pos_weight=torch.tensor(5.0)
        )
        return ((errors + ends) * real).sum() / real.sum() + fine(looked, some)

    model.source.train()
    for _ in trained({"tts_dec": model.source}, STEPS, LEARNING_RATE, loss, decay=0.01):
        pass
    halved(model.source)
    lines = "".join(f"{symbol} 1\n" for symbol in SYMBOLS)
    save(model, measured(model, speaker, whole.of(torch.arange(len(held)))))
    (shipped.folder(model.name) / "vocab.txt").write_text(lines)


def measured(model: Submodel, speaker: Speaker, some: Batch) -> dict[str, float]:
    """Return the distance of held-out phrases from espeak-ng's, when frames are given, and how much their lengths differ."""
    with torch.no_grad():
        _, refined, _, _ = speaker(some, 0.0)
    real = (torch.arange(refined.shape[1])[None] < some.steps[:, None]).float()
    error = ((refined - some.frames).abs().mean(2) * real).sum() / real.sum()
    spoken = speaker.say(some, some.frames.shape[1] * 2)
    lengths = torch.tensor([len(one) for one in spoken])
    return {
        "mel_error": error.item(),
        "length_error": ((lengths - some.steps).abs() / some.steps).mean().item(),
    }


def waveform(model: Submodel, frames: Tensor) -> Array:
    """Return the sound of refined frames (steps, features)."""
    form, mean, std, _ = settings(model)
    return griffin_lim(frames.reshape(-1, form.bins).numpy() * std + mean, form)


if __name__ == "__main__":
    main()
