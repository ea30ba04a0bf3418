"""Tasks of the paper (Table 3) that ``m4c run`` executes: the graphs each needs, what it takes, and its prompt."""

from collections.abc import Iterable
from dataclasses import dataclass

from m4c.errors import UsageError

SLOT = "<input>"
"""Where a prompt has the vector of a picture, a sound or a motion."""

ENCODERS = {"image": "img_enc/encoder", "audio": "aud_b_enc/encoder", "imu": "imu_enc/encoder"}
"""Which graph embeds what the option of that name gives."""

FILES = ("picture", "sound")
"""What goes to a file rather than to the terminal."""

LABEL_READER = "txt_enc/encoder"
WRITER = ("backbone/embed", "backbone/decoder")


@dataclass(frozen=True)
class Route:
    """How a task is done: what a runner needs to know of it, and what a manifest says."""

    title: str
    path: int
    """1: encoder, backbone, generator · 2: encoders alone · 3: backbone, generator · 4: one generator."""
    graphs: tuple[str, ...]
    """In the order in which they run."""
    takes: tuple[str, ...] = ("text",)
    """The options of ``m4c run`` that give its input."""
    prompt: str = "{text}"
    """What is asked: of the text encoder about a ``{label}``, or of the backbone."""
    gives: str = "text"
    """``text``, ``label``, or one of :data:`FILES`."""


@dataclass(frozen=True)
class Task(Route):
    """A task by the paper's number."""

    genai: tuple[str, ...] = ()
    """Those that run instead in a bundle for onnxruntime-genai, if that has graphs of its own."""

    @property
    def options(self) -> tuple[str, ...]:
        """The options of ``m4c run`` that it needs."""
        return (*self.takes, *(("out",) if self.gives in FILES else ()))

    @property
    def summary(self) -> str:
        """What it is, and what it needs."""
        return f"{self.title}: {' '.join(f'--{option}' for option in self.options)}"

    def by(self, graphs: tuple[str, ...]) -> Route:
        """Return how it is done by these of its graphs."""
        return Route(self.title, self.path, graphs, self.takes, self.prompt, self.gives)

    @property
    def media(self) -> str | None:
        """The option that gives what is embedded, if anything is."""
        return next((name for name in self.takes if ENCODERS.get(name) in self.graphs), None)


def _written(title: str, prompt: str, *takes: str) -> Task:
    """Return a task of path 3: text in, text out."""
    return Task(title, 3, WRITER, takes or ("text",), prompt, genai=("backbone/model",))


def _told(title: str, media: str, prompt: str, *takes: str) -> Task:
    """Return a task of path 1: something is embedded, and the backbone tells of it."""
    return Task(title, 1, (ENCODERS[media], "projection/linear", *WRITER), (media, *takes), prompt)


def _chosen(title: str, media: str, prompt: str) -> Task:
    """Return a task of path 2: something is embedded and held against labels."""
    return Task(title, 2, (ENCODERS[media], LABEL_READER), (media, "labels"), prompt, "label")


CAPTION = f"input:{SLOT} question: what is it? answer:"
QUESTION = f"input:{SLOT} question: {{text}} answer:"

TASKS = {
    "T1": _written("input word prediction", "{text}"),
    "T2": _written("question answering", "{text} question: {question} answer:", "text", "question"),
    "T4": _written("machine translation", "translate from en to de: {text} translation:"),
    "T7": _written("sentiment analysis", "review: {text} sentiment:"),
    "T22": _chosen("image classification", "image", "a photo of {label} exists"),
    "T32": Task(
        "speech recognition", 1, ("aud_i_enc/encoder", "aud_i_enc/cross", "aud_i_enc/decoder"), ("audio",)
    ),
    "T36": _chosen("audio classification", "audio", "a sound of {label}"),
    "T38": _chosen("human activity recognition", "imu", "the person is doing {label}"),
    "T41": Task(
        "text-to-speech",
        4,
        ("tts_dec/encoder", "tts_dec/cross", "tts_dec/decoder", "tts_dec/postnet"),
        gives="sound",
    ),
    "T42": _told("audio captioning", "audio", CAPTION),
    "T44": _told("image captioning", "image", CAPTION),
    "T46": Task(
        "text-to-image retrieval",
        2,
        (ENCODERS["image"], LABEL_READER),
        ("image", "text"),
        "a photo of {label} exists",
        "label",
    ),
    "T48": Task(
        "text-to-image generation",
        4,
        ("img_dec/text", "img_dec/unet", "img_dec/vae_decoder"),
        gives="picture",
    ),
    "T49": _told("visual question answering", "image", QUESTION, "text"),
}


def require_task(name: str) -> Task:
    """Return a task.

    Raises:
        UsageError: if m4c does not run a task of that name.
    """
    if name not in TASKS:
        known = ", ".join(f"{key} ({task.title})" for key, task in TASKS.items())
        raise UsageError(f"m4c runs no task {name!r}", fix=f"it runs: {known}")
    return TASKS[name]


def graphs_of(names: Iterable[str], dialect: str | None = None) -> tuple[str, ...]:
    """Return the graphs that tasks run, each once, in their order; for ``dialect`` genai those of its own.

    Raises:
        UsageError: if m4c does not run a task of one of these names.
    """
    tasks = [require_task(name) for name in names]
    return tuple(dict.fromkeys(g for t in tasks for g in ((dialect == "genai" and t.genai) or t.graphs)))


def routes(graphs: set[str]) -> dict[str, Route]:
    """Return the tasks whose graphs are all among ``graphs``, each with these."""
    found: dict[str, Route] = {}
    for name, task in TASKS.items():
        for graphs_ in (task.graphs, task.genai):
            if graphs_ and graphs.issuperset(graphs_):
                found.setdefault(name, task.by(graphs_))
    return found
