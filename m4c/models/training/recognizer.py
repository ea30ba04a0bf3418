"""Train ``aud_i_enc`` to write down short phrases: digits, commands and names of pictures, in voices of espeak-ng.

python -m m4c.models.training.recognizer
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m4c.host.greedy import numbers
from m4c.host.prepare import prepare
from m4c.models.graph import Submodel
from m4c.models.training.common import chunks, fresh, halved, log, save, source, start, trained
from m4c.models.training.pictures import DIGITS
from m4c.models.training.sentences import commands, phrase
from m4c.models.training.sounds import RATE, finished
from m4c.models.training.speech import HELD_OUT_VOICES, VOICES, spoken_all, utterance

Array = np.ndarray

STEPS, LEARNING_RATE, BATCH = 3000, 2e-3, 32
UTTERANCES, TAKES, HELD_OUT = 1000, 3, 150
IGNORED = -100


def phrases(count: int, rng: np.random.Generator) -> list[str]:
    """Return ``count`` phrases, every digit and every command among them."""
    fixed = [*DIGITS, *commands()]
    return [*fixed, *(phrase(rng) for _ in range(count - len(fixed)))][:count]


def features(model: Submodel, sounds: Sequence[Array], takes: int, rng: np.random.Generator) -> Tensor:
    """Return log-mel features (sounds · takes, mels, frames): each sound with several silences before it, and noises."""
    host = model.graphs[0].inputs[0].host
    room = int(str(host["frames"])) * RATE // 100
    made = []
    for sound in sounds:
        for _ in range(takes):
            before = int(rng.uniform(0, max(1, min(0.25 * RATE, room - len(sound)))))
            made.append(prepare(host, finished(np.pad(sound, (before, 0)), rng)))
    return torch.from_numpy(np.concatenate(made))


def rows(model: Submodel, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return what the decoder reads, and what it shall write, each (n, longest)."""
    host = model.graphs[2].inputs[0].host
    begin, end = numbers(host, "start"), numbers(host, "end")[0]
    longest = max(len(text) for text in texts) + 1
    read, write = np.full((len(texts), longest), end), np.full((len(texts), longest), IGNORED)
    for row, text in enumerate(texts):
        ids = [*text.encode()]
        read[row, : len(ids) + 1] = [*begin, *ids]
        write[row, : len(ids) + 1] = [*ids, end]
    return torch.from_numpy(read), torch.from_numpy(write)


@torch.no_grad()
def heard(model: Submodel, mel: Tensor, longest: int) -> list[str]:
    """Return what the model writes, greedily."""
    host = model.graphs[2].inputs[0].host
    end, written = int(str(host["end"])), []
    for part in chunks(mel):
        states = source(model).model.encoder(part).last_hidden_state
        tokens = torch.tensor([host["start"]]).repeat(len(part), 1)
        for _ in range(longest):
            scores = source(model)(encoder_outputs=(states,), decoder_input_ids=tokens).logits[:, -1]
            tokens = torch.cat([tokens, scores.argmax(1, keepdim=True)], 1)
        for row in tokens[:, 1:].tolist():
            cut = row[: row.index(end)] if end in row else row
            written.append(bytes(i for i in cut if i < 256).decode(errors="replace"))
    return written


def word_errors(said: Sequence[str], written: Sequence[str]) -> float:
    """Return the word error rate: substitutions, insertions and deletions a spoken word."""
    wrong = sum(_distance(a.split(), b.split()) for a, b in zip(said, written, strict=True))
    return wrong / sum(len(text.split()) for text in said)


def _distance(said: Sequence[str], written: Sequence[str]) -> int:
    row = list(range(len(written) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(written, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def main() -> None:
    """Train, measure on voices that were held out, and save."""
    rng = start()
    model = fresh("aud_i_enc")
    log.info("speaking")
    texts = phrases(UTTERANCES, rng)
    mel = features(model, spoken_all([utterance(text, rng, VOICES) for text in texts]), TAKES, rng)
    read, write = rows(model, texts)
    generator = torch.Generator().manual_seed(0)

    def loss(step: int) -> Tensor:
        chosen = torch.randint(len(mel), (BATCH,), generator=generator)
        noisy = mel[chosen] + torch.randn((BATCH, *mel.shape[1:]), generator=generator) * 0.1
        which = chosen // TAKES
        longest = int((write[which] != IGNORED).sum(1).max())
        logits = model.source(input_features=noisy, decoder_input_ids=read[which, :longest]).logits
        return functional.cross_entropy(
            logits.flatten(0, 1), write[which, :longest].flatten(), label_smoothing=0.05
        )

    model.source.train()
    for _ in trained({"aud_i_enc": model.source}, STEPS, LEARNING_RATE, loss):
        pass
    halved(model.source)
    rng = np.random.default_rng(1)
    said = phrases(HELD_OUT, rng)
    tested = features(model, spoken_all([utterance(text, rng, HELD_OUT_VOICES) for text in said]), 1, rng)
    written = heard(model, tested, read.shape[1])
    for a, b in list(zip(said, written, strict=True))[::10]:
        log.info("%r %r", a, b)
    exact = float(np.mean([a == b for a, b in zip(said, written, strict=True)]))
    save(model, {"word_error_rate": word_errors(said, written), "exact": exact})


if __name__ == "__main__":
    main()
