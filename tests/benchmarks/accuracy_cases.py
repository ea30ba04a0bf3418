"""Examples of the tasks of ``m4c run`` with what is right, in files: none of them was trained on where that is wanted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from m4c.host.wav import write_wav
from m4c.models.training import motions, pictures, sentences, sounds, speech
from m4c.routes.perform import Given
from m4c.tasks import TASKS

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """An input of a task and what is right."""

    given: Given
    wanted: str


class Maker:
    """Examples in files."""

    def __init__(self, folder: Path, seed: int, held_out: bool) -> None:
        """Write into ``folder``; ``held_out`` are digits and voices that nothing was trained on."""
        self.folder, self.rng, self.held_out, self.count = folder, np.random.default_rng(seed), held_out, 0
        self.drawn = pictures.digits(64, held_out)
        self.voices = speech.HELD_OUT_VOICES if held_out else speech.VOICES
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, suffix: str) -> Path:
        self.count += 1
        return self.folder / f"{self.count}{suffix}"

    def picture(self) -> tuple[Path, int]:
        """Return a digit or a shape, and its label."""
        if self.rng.uniform() < 0.5:
            place = int(self.rng.integers(len(self.drawn.labels)))
            pixels, label = self.drawn.pixels[place], int(self.drawn.labels[place])
        else:
            label = int(self.rng.integers(10, len(pictures.LABELS)))
            pixels = pictures.shape(label, 64, self.rng)
        path = self._path(".png")
        Image.fromarray(pixels).save(path)
        return path, label

    def sound(self) -> tuple[Path, int]:
        """Return a noise or a spoken digit, and its label."""
        label = int(self.rng.integers(len(sounds.LABELS)))
        if label >= 10:
            return self._wav(sounds.noise(sounds.LABELS[label], self.rng)), label
        return self.said(sounds.LABELS[label]), label

    def said(self, text: str) -> Path:
        """Return the sound of a phrase."""
        (sound,) = speech.spoken_all([speech.utterance(text, self.rng, self.voices)])
        return self._wav(sounds.finished(sound, self.rng))

    def _wav(self, samples: Array) -> Path:
        path = self._path(".wav")
        write_wav(path, samples, sounds.RATE)
        return path

    def motion(self) -> tuple[Path, int]:
        """Return a recording, and its label."""
        label, path = int(self.rng.integers(len(motions.LABELS))), self._path(".npy")
        np.save(path, motions.motion(motions.LABELS[label], 128, self.rng))
        return path, label

    def case(self, task: str) -> Case:
        """Return an example of a task."""
        made: Case = getattr(self, task.lower())()
        return made

    def t1(self) -> Case:
        """Return a story up to a word, and the word."""
        words = sentences.story(self.rng).split()
        place = int(self.rng.integers(2, len(words)))
        return Case(Given(text=" ".join(words[:place]), max_tokens=6), words[place])

    def t2(self) -> Case:
        """Return a story with a question."""
        prompt, answer = sentences.where_is(self.rng)
        before, after = TASKS["T2"].prompt.format(text="|", question="|").split("|")[1:]
        text, question = prompt.removesuffix(after).split(before)
        return Case(Given(text=text, question=question), answer.strip())

    def t4(self) -> Case:
        """Return a sentence to translate."""
        return self._text("T4", sentences.translation(self.rng))

    def t7(self) -> Case:
        """Return a review."""
        return self._text("T7", sentences.sentiment(self.rng))

    def _text(self, task: str, asked: tuple[str, str]) -> Case:
        before, after = TASKS[task].prompt.split("{text}")
        return Case(Given(text=asked[0].removeprefix(before).removesuffix(after)), asked[1].strip())

    def t22(self) -> Case:
        """Return a picture to choose a label for."""
        path, label = self.picture()
        return Case(Given(image=(path,), labels=pictures.LABELS), pictures.LABELS[label])

    def t32(self) -> Case:
        """Return speech."""
        text = sentences.phrase(self.rng)
        return Case(Given(audio=self.said(text)), text)

    def t36(self) -> Case:
        """Return a sound to choose a label for."""
        path, label = self.sound()
        return Case(Given(audio=path, labels=sounds.LABELS), sounds.LABELS[label])

    def t38(self) -> Case:
        """Return a motion to choose a label for."""
        path, label = self.motion()
        return Case(Given(imu=path, labels=motions.LABELS), motions.LABELS[label])

    def t41(self) -> Case:
        """Return a phrase to speak."""
        text = sentences.phrase(self.rng)
        return Case(Given(text=text, out=self._path(".wav")), text)

    def t42(self) -> Case:
        """Return a sound to caption."""
        path, label = self.sound()
        return Case(Given(audio=path), sentences.about_sound(label)[0][1])

    def t44(self) -> Case:
        """Return a picture to caption."""
        path, label = self.picture()
        return Case(Given(image=(path,)), sentences.about_picture(label)[0][1])

    def t46(self) -> Case:
        """Return a label and several pictures, one of which shows it."""
        found: dict[int, Path] = {}
        while len(found) < 8:
            path, label = self.picture()
            found[label] = path
        label = int(self.rng.choice(list(found)))
        return Case(Given(image=tuple(found.values()), text=pictures.LABELS[label]), str(found[label]))

    def t48(self) -> Case:
        """Return something to draw."""
        label = (
            int(self.rng.integers(len(pictures.LABELS)))
            if self.rng.uniform() < 0.5
            else int(self.rng.integers(10))
        )
        given = Given(text=f"a {pictures.LABELS[label]}", out=self._path(".png"), seed=self.count)
        return Case(given, pictures.LABELS[label])

    def t49(self) -> Case:
        """Return a question about a picture."""
        path, label = self.picture()
        questions = sentences.about_picture(label, self.rng)[1:]
        question, answer = questions[int(self.rng.integers(len(questions)))]
        return Case(Given(image=(path,), text=question), answer)
