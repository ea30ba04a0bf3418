"""Measure every task of ``m4c run`` on every build of m4-nano, and write the table: what rounding costs.

    python -m tests.benchmarks.accuracy docs/accuracy.md WORK

It needs scikit-learn and espeak-ng. Ranges of integers are observed on what the tasks give each graph for examples that
nothing was measured on.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from m4c.bundle import GraphRecord, read_manifest
from m4c.errors import M4CError
from m4c.models import shipped
from m4c.models.training import pictures, recognizer
from m4c.routes.perform import Given, perform
from m4c.runners import Runner, open_runners
from m4c.static_cache import open_decoder
from m4c.tasks import TASKS
from tests.benchmarks import accuracy_whisper
from tests.benchmarks.accuracy_builds import built
from tests.benchmarks.accuracy_cases import Case, Maker

Array = np.ndarray

BUILDS = (
    ("onnx", "float32"),
    ("tflite", "float32"),
    ("onnx", "float16"),
    ("tflite", "float16"),
    ("onnx", "int8"),
    ("tflite", "int8"),
    ("tflite", "int8+mse"),
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

SLOW = frozenset({"T41", "T48"})
"""Tasks that take seconds."""

COUNTS = {name: 400 if task.path == 2 and "labels" in task.takes else 100 for name, task in TASKS.items()}
JUDGES = ("T22", "T32")
"""Tasks that judge what others draw and say."""

COUNTS |= {"T41": 40, "T48": 46}
"""Examples of each task."""

ALLOWED = {"float16": 0.01, "int8": 0.01, "int16x8": 0.01, "int8-weights": 0.01, "int4": 0.02}
"""What a precision may lose."""


Figures = dict[str, float | None]
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


class Store:
    """Figures that were measured before, by build and task, so that a run that was stopped goes on."""

    def __init__(self, path: Path) -> None:
        """Read ``path`` if it is there."""
        self.path = path
        self.held: dict[str, Figures] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def of(
        self,
        build: str,
        tasks: Sequence[str],
        measure: Callable[[Sequence[str]], Iterator[tuple[str, float | None]]],
    ) -> Figures:
        """Return the figures of ``tasks``, those that are missing measured now."""
        held = self.held.setdefault(build, {})
        missing = [task for task in tasks if task not in held]
        for task, figure in measure(missing) if missing else ():
            held[task] = figure
            self.path.write_text(json.dumps(self.held, indent=1), "utf-8")
            print(build, task, figure, flush=True)
        return {task: held[task] for task in tasks}


def calibration(folder: Path, bundle: Path, tasks: Sequence[str]) -> Path:
    """Return a folder of samples of each graph: what the tasks give it, over examples that nothing is measured on."""
    out = folder / f"calibration-{tasks[0]}"
    if not out.exists():
        recorder, learn = Recorder(), Maker(folder / "calibration-inputs", 11, held_out=False)
        recorded = Measured(bundle, recorder.open)
        for task in tasks:
            for _ in range(4 if task in SLOW else 25):
                recorded.text(task, learn.case(task).given)
        recorder.write(bundle, out)
    return out


def nano(folder: Path, store: Store, tasks: Sequence[str]) -> dict[str, Figures]:
    """Return by build the metric of each task on m4-nano; none where there is no build."""
    graphs = sorted({graph for task in (*tasks, *JUDGES) for graph in TASKS[task].graphs})
    base = folder / f"float-{tasks[0]}"
    made = built(base, graphs, "tflite", "float32", None, weights=shipped.WEIGHTS)
    if isinstance(made, M4CError):
        raise made
    first = Measured(base)
    samples = calibration(folder, first.folder, tasks)
    maker = Maker(folder / "inputs", 12, held_out=True)
    cases = {task: [maker.case(task) for _ in range(COUNTS[task])] for task in tasks}

    def measured(
        file_format: str, precision: str, missing: Sequence[str]
    ) -> Iterator[tuple[str, float | None]]:
        out = folder / f"{file_format}-{precision}-{missing[0]}"
        needed = sorted({graph for task in missing for graph in TASKS[task].graphs})
        made = built(out, needed, file_format, precision, samples, weights=shipped.WEIGHTS)
        bundle = None if isinstance(made, M4CError) else Measured(out)
        for task in missing:
            yield task, bundle.metric(task, cases[task], first) if bundle else None

    return {f"{p}, {f}": store.of(f"nano {p}, {f}", tasks, partial(measured, f, p)) for f, p in BUILDS}


def whisper(folder: Path, store: Store) -> dict[str, Figures]:
    """Return by build the word error rate of Whisper tiny.en."""

    def measured(file_format: str, precision: str, _: Sequence[str]) -> Iterator[tuple[str, float | None]]:
        yield "T32", accuracy_whisper.word_errors(folder, file_format, precision)

    builds = accuracy_whisper.BUILDS
    return {f"{p}, {f}": store.of(f"whisper {p}, {f}", ["T32"], partial(measured, f, p)) for f, p in builds}


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path, help="a folder for builds and figures; a second run goes on there")
    parser.add_argument("--task", action="append", help="measure this task alone, and write no page")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    store = Store(given.work / "figures.json")
    if given.task == ["whisper"]:
        whisper(given.work, store)
    elif given.task:
        nano(given.work, store, given.task)
    else:
        made = page(nano(given.work, store, list(TASKS)), whisper(given.work, store))
        given.out.write_text(made, encoding="utf-8")


def page(tasks: Mapping[str, Figures], whisper: Mapping[str, Figures]) -> str:
    """Return the page: a row a build, a column a task; what loses more than it may is marked."""
    return PAGE.format(
        tasks="\n".join(
            f"| {name} | {TASKS[name].title} | {_metric(name)} | {COUNTS[name]} |" for name in TASKS
        ),
        nano=_table(tasks, {name: name for name in TASKS}),
        whisper=_table(whisper, {"T32": "word errors"}),
        sentences=len(accuracy_whisper.SENTENCES),
    )


def _metric(task: str) -> str:
    return "word errors" if task in WRONG else "right"


def _table(found: Mapping[str, Figures], columns: Mapping[str, str]) -> str:
    """Return a row a build, beside the first of them."""
    base = next(iter(found.values()))
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    for build, values in found.items():
        cells = [_cell(name, re.split("[+,]", build)[0], values[name], base[name]) for name in columns]
        lines.append(f"| {build} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(task: str, precision: str, value: float | None, base: float | None) -> str:
    if value is None or base is None:
        return "–"
    lost = (value - base) if task in WRONG else (base - value)
    bold = "**" if lost > ALLOWED.get(precision, 0.0) + 1e-9 else ""
    return f"{bold}{100 * value:.1f}{bold}"


PAGE = """# Accuracy

What a precision costs, task by task, over the artifacts by `m4c run`'s own routes. Nothing that is measured on was trained
on. Percent; bold is worse than float32 by more than one percent point, in int4 by more than two.

```sh
python -m tests.benchmarks.accuracy docs/accuracy.md WORK    # WORK keeps builds and figures
```

It needs `pip install -e ".[dev,training]"` and espeak-ng. Integers of activations are calibrated on up to 48 calls of each
graph, taken from other examples of the tasks; `+mse` is `--observer mse`, the others have the observer that an export has by
itself. Weights in int8-weights and int4 are rounded to the nearest.

## m4-nano

{nano}

| task | | metric | examples |
|---|---|---|---:|
{tasks}

T48's drawings are judged by T22, and T41's speech by T32, both in float32.

## Whisper tiny.en

Word errors over {sentences} sentences that espeak-ng says, the real weights.

{whisper}

## What loses, and what was tried

Weights in 8 bits cost next to nothing, and in 4 bits little but for speech that is spoken and for T2, which float32 hardly does
either. Activations in 8 bits cost where a few channels, or the first token of a text, are tens of times as large as all else:
m4-nano's image encoder and backbone, Whisper's encoder. Tried on these: `--observer mse` gives the image encoder back more than
half, and takes from the backbone; norms that scale each row for itself, which all int8 builds have; `--quantize int16x8`, which
is the answer for Whisper and nearly so for m4-nano; `--quantize int8-weights`, the answer where the runtime may compute
in float. Chips that have nothing but int8 keep the loss.
"""

if __name__ == "__main__":
    main()
