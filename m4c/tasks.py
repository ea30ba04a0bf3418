"""Tasks of the paper (Table 3) that ``m4c run`` executes, and the graphs each needs."""

from dataclasses import dataclass

from m4c.errors import UsageError


@dataclass(frozen=True, slots=True)
class Task:
    """A task by the paper's number."""

    title: str
    graphs: tuple[str, ...]
    """In the order in which they run."""
    takes: str = "text"
    """The option of ``m4c run`` that gives its input."""
    genai: tuple[str, ...] = ()
    """Those that run instead in a bundle for onnxruntime-genai, if that has graphs of its own."""


TASKS = {
    "T1": Task("input word prediction", ("backbone/embed", "backbone/decoder"), genai=("backbone/model",)),
    "T32": Task(
        "speech recognition", ("aud_i_enc/encoder", "aud_i_enc/cross", "aud_i_enc/decoder"), takes="audio"
    ),
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


def routes(graphs: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the tasks whose graphs are all among ``graphs``, each with these."""
    found: dict[str, tuple[str, ...]] = {}
    for name, task in TASKS.items():
        for route in (task.graphs, task.genai):
            if route and graphs.issuperset(route):
                found.setdefault(name, route)
    return found
