"""Measure every task of ``m4c run`` on every build of m4-nano, and write the table: what rounding costs.

    python -m tests.benchmarks.accuracy docs/accuracy.md

It needs scikit-learn and espeak-ng. Ranges of integers are observed on what the tasks give each graph for examples that
nothing was measured on.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m4c.bundle import GraphRecord, read_manifest
from m4c.compile import compile_bundle
from m4c.errors import M4CError
from m4c.host.wav import write_wav
from m4c.models import shipped
from m4c.models.training import motions, pictures, recognizer, sentences, sounds, speech
from m4c.progress import Silent
from m4c.request import Request
from m4c.routes.perform import Given, perform
from m4c.runners import Runner, open_runners
from m4c.scheme import scheme
from m4c.static_cache import open_decoder
from m4c.targets.profile import load_target
from m4c.tasks import TASKS

Array = np.ndarray

BUILDS = (
    ("onnx", "float32"),
    ("tflite", "float32"),
    ("onnx", "float16"),
    ("tflite", "float16"),
    ("onnx", "int8"),
    ("tflite", "int8"),
    ("tflite", "int16x8"),
    ("onnx", "int8-weights"),
    ("tflite", "int8-weights"),
    ("onnx", "int4"),
    ("tflite", "int4"),
)
WRONG = frozenset({"T32", "T41"})
"""Tasks whose metric is a word error rate; of the others it is the share of right answers."""

KEPT = 48
"""Calibration samples of a graph, drawn from all that it was given."""

ALLOWED = {"int8": 0.01, "int16x8": 0.01, "int8-weights": 0.01, "int4": 0.02}
"""What a precision may lose."""


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


Opener = Callable[[Path, Sequence[str], Path | None], list[Runner]]


class Measured:
    """A bundle whose graphs are opened once."""

    def __init__(self, folder: Path, opener: Opener = open_runners) -> None:
        """Read the manifest at ``folder``."""
        self.folder, self.manifest, self.opener = folder, read_manifest(folder), opener
        self.opened: dict[str, Runner] = {}

    def _open(self, folder: Path, graph: GraphRecord, adapter: Path | None = None) -> Runner:
        if graph.name not in self.opened:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("m4c.static_cache.open_runners", self.opener)
                self.opened[graph.name] = open_decoder(folder, graph, adapter)
        return self.opened[graph.name]

    def text(self, task: str, given: Given) -> str:
        """Return the result of a task."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("m4c.routes.opened.open_decoder", self._open)
            patch.setattr("m4c.routes.generate.open_decoder", self._open)
            return perform(self.folder, self.manifest, task, given).text.strip()

    def metric(self, task: str, cases: Sequence[Case], judge: "Measured") -> float:
        """Return the task's metric over ``cases``; what is drawn or spoken is read by ``judge``."""
        found = [self.text(task, case.given) for case in cases]
        if task == "T48":
            found = [judge.text("T22", Given(image=(Path(f),), labels=pictures.LABELS)) for f in found]
        if task == "T41":
            found = [judge.text("T32", Given(audio=Path(file))) for file in found]
        wanted = [case.wanted for case in cases]
        if task in WRONG:
            return recognizer.word_errors(wanted, found)
        if task == "T1":
            found = [text.split()[0] if text.split() else "" for text in found]
        return float(np.mean([a == b for a, b in zip(found, wanted, strict=True)]))


class Recorder:
    """Keeps some of what each graph is given."""

    def __init__(self) -> None:
        """Start without samples."""
        self.seen: dict[Path, int] = defaultdict(int)
        self.kept: dict[Path, list[Mapping[str, Array]]] = defaultdict(list)
        self.rng = np.random.default_rng(0)

    def open(self, path: Path, signatures: Sequence[str], adapter: Path | None = None) -> list[Runner]:
        """Open a file whose inputs are kept."""
        return [_Recorded(self, path, runner) for runner in open_runners(path, signatures, adapter)]

    def take(self, path: Path, inputs: Mapping[str, Array]) -> None:
        """Keep a call, or let it take the place of one that was kept, so that each is as likely."""
        self.seen[path] += 1
        if len(self.kept[path]) < KEPT:
            self.kept[path].append(dict(inputs))
        elif (place := int(self.rng.integers(self.seen[path]))) < KEPT:
            self.kept[path][place] = dict(inputs)

    def write(self, bundle: Path, out: Path) -> None:
        """Write what was kept as a calibration folder."""
        for path, samples in self.kept.items():
            folder = out / path.relative_to(bundle / "graphs").with_suffix("")
            folder.mkdir(parents=True)
            for number, sample in enumerate(samples):
                np.savez(folder / f"{number:03}.npz", **sample)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Recorded:
    recorder: Recorder
    path: Path
    runner: Runner

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.recorder.take(self.path, inputs)
        return self.runner.run(inputs)


def built(folder: Path, file_format: str, precision: str, calibration: Path | None) -> Measured | M4CError:
    """Return a build of all that the tasks need, or why there is none."""
    graphs = sorted({graph for task in TASKS.values() for graph in task.graphs})
    request = Request(
        load_target("cpu"),
        tuple(graphs),
        weights=shipped.WEIGHTS,
        format=file_format,
        precision=precision,
        calibration=str(calibration) if calibration and precision in ("int8", "int16x8") else None,
        scheme=scheme(precision, None, True, "rtn", (), None),
        min_sqnr=-100.0 if precision in ("int8", "int16x8") else None,
    )
    try:
        compile_bundle(request, folder, Silent())
    except M4CError as error:
        return error
    return Measured(folder)


def rows(folder: Path, count: int) -> Iterator[tuple[str, str, dict[str, float | None]]]:
    """Yield format, precision and the metric of each task; none where there is no build."""
    first = built(folder / "float", "tflite", "float32", None)
    if isinstance(first, M4CError):
        raise first
    recorder, learn = Recorder(), Maker(folder / "calibration-inputs", 11, held_out=False)
    recorded = Measured(folder / "float", recorder.open)
    for task in TASKS:
        for _ in range(max(4, count // 4)):
            recorded.text(task, learn.case(task).given)
    recorder.write(folder / "float", folder / "calibration")
    maker = Maker(folder / "inputs", 12, held_out=True)
    cases = {task: [maker.case(task) for _ in range(count)] for task in TASKS}
    for file_format, precision in BUILDS:
        made: Any = built(
            folder / f"{file_format}-{precision}", file_format, precision, folder / "calibration"
        )
        if isinstance(made, M4CError):
            print(file_format, precision, made)
            yield file_format, precision, dict.fromkeys(TASKS)
        else:
            yield file_format, precision, {task: made.metric(task, cases[task], first) for task in TASKS}


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100, help="examples of a task")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(Path(folder), given.count))
    given.out.write_text(page(found, given.count), encoding="utf-8")


def page(found: Sequence[tuple[str, str, dict[str, float | None]]], count: int) -> str:
    """Return the page: a row a task, a column a build; what loses more than it may is marked."""
    base = found[0][2]
    lines = [
        "| task | | metric | " + " | ".join(f"{precision}, {form}" for form, precision, _ in found) + " |",
        "|---|---|---|" + "---:|" * len(found),
    ]
    for name, task in TASKS.items():
        cells = [_cell(name, precision, values[name], base[name]) for _, precision, values in found]
        metric = "word errors" if name in WRONG else "right"
        lines.append(f"| {name} | {task.title} | {metric} | " + " | ".join(cells) + " |")
    return PAGE.format(table="\n".join(lines), count=count)


def _cell(task: str, precision: str, value: float | None, base: float | None) -> str:
    if value is None or base is None:
        return "–"
    lost = (value - base) if task in WRONG else (base - value)
    bold = "**" if lost > ALLOWED.get(precision, 0.0) + 1e-9 else ""
    return f"{bold}{100 * value:.1f}{bold}"


PAGE = """# Accuracy

What rounding costs m4-nano, task by task: {count} examples of each, none of them trained on, run over the artifacts by
`m4c run`'s own routes. Right answers and word errors in percent. Bold: worse than float32 by more than a percent point in
8 bits, or two in 4; in float16 than float32 at all. Integers are calibrated on up to 48 calls of each graph.
Written by `python -m tests.benchmarks.accuracy docs/accuracy.md`.

{table}
"""

if __name__ == "__main__":
    main()
