"""The one door to the routes: a task and what the user gives, to a text, to scores, or to a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m4c.bundle import Manifest
from m4c.errors import UsageError
from m4c.host.wav import write_wav
from m4c.tasks import Task, require_task


@dataclass(frozen=True)
class Given:
    """What the options of ``m4c run`` give."""

    text: str | None = None
    question: str | None = None
    image: tuple[Path, ...] = ()
    audio: Path | None = None
    imu: Path | None = None
    labels: tuple[str, ...] = ()
    out: Path | None = None
    adapter: str | None = None
    max_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What a task gives: a line of text, and how likely each candidate was where there were some."""

    text: str
    scores: dict[str, float] = field(default_factory=dict)


def perform(folder: Path, manifest: Manifest, name: str, given: Given) -> Result:
    """Run the task ``name`` over the bundle at ``folder``.

    Raises:
        UsageError: if there is no such task, or it is not given what it takes, or that cannot be used.
        BundleError: if the bundle lacks a graph of the route.
    """
    check(name, given)
    task = require_task(name)
    text, adapter = given.text or "", given.adapter
    media = _media(task, given)
    match task.path, task.gives:
        case 2, _ if _among(task):
            from m4c.routes.classify import retrieve

            return _first(retrieve(folder, manifest, task, given.image, text, adapter))
        case 2, _:
            from m4c.routes.classify import classify

            return _first(classify(folder, manifest, task, media[0], given.labels, adapter))
        case 1, _ if task.media is not None:
            from m4c.routes.answer import answer

            return Result(
                answer(folder, manifest, task, media[0], text, given.max_tokens, adapter).text.strip()
            )
        case 4, _:
            return Result(_made(folder, manifest, task, given))
    if given.audio is not None and "audio" in task.takes:
        from m4c.routes.transcribe import transcribe

        return Result(transcribe(folder, manifest, given.audio, adapter))
    from m4c.routes.generate import generate

    prompt = task.prompt.format(text=text, question=given.question)
    return Result(generate(folder, manifest, prompt, given.max_tokens, adapter).text)


def _media(task: Task, given: Given) -> Sequence[Path]:
    """Return the files of what is embedded."""
    found = getattr(given, task.media) if task.media else ()
    return found if isinstance(found, tuple) else (found,)


def check(name: str, given: Given) -> None:
    """Refuse a task that is not given what it takes.

    Raises:
        UsageError: if so, or if there is no such task.
    """
    task = require_task(name)
    missing = [option for option in task.options if getattr(given, option) in (None, ())]
    if missing:
        options = " and ".join(f"--{option}" for option in missing)
        raise UsageError(f"{name} needs {options}", fix=f"add {options}")
    if len(given.image) > 1 and not _among(task):
        raise UsageError(f"{name} takes one image", fix="give --image once")


def _among(task: Task) -> bool:
    """Return whether a text chooses among inputs, rather than an input among labels."""
    return task.path == 2 and "text" in task.takes


def _first(scores: dict[str, float]) -> Result:
    return Result(next(iter(scores)), scores)


def _made(folder: Path, manifest: Manifest, task: Task, given: Given) -> str:
    """Write the picture or the sound that is asked for, and return where it is."""
    assert given.out is not None
    text = given.text or ""
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if task.gives == "picture":
        from m4c.routes.draw import draw, write_png

        write_png(given.out, draw(folder, manifest, task, text, given.seed, given.adapter))
    else:
        from m4c.routes.speak import speak

        write_wav(given.out, *speak(folder, manifest, task, text, given.adapter))
    return str(given.out)
