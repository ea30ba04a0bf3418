"""How long a task takes at least on a target: the calls that its route makes, each by the profile's roofline.

An estimate and a lower bound: peak figures, and nothing waits. Not in it are steps of the host and nodes on the CPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from m4c.errors import UsageError
from m4c.host.diffusion import STEPS as DENOISING
from m4c.operator_reports.captured import of_model
from m4c.operator_reports.placement import Judged, Placement
from m4c.parallel import in_processes
from m4c.progress import Progress
from m4c.targets.profile import Target, load_target, names
from m4c.tasks import LABEL_READER, TASKS, WRITER, Task

PROMPT = 64
"""Steps that the backbone reads at once before it writes: the paper's figures of work fit 47 tokens."""

PAST = 511
"""Steps that the backbone's cache has room for, if the model knows so many."""

UNITS = {
    "backbone/embed": "token",
    "backbone/decoder": "token",
    "aud_i_enc/decoder": "token",
    "tts_dec/decoder": "frame",
    "img_dec/unet": "denoising step",
    LABEL_READER: "label",
}
"""Graphs that are called once a step, and what a step makes."""

FURTHER = {"token": 31, "frame": 255, "denoising step": DENOISING - 1, "label": 0}
"""How many steps follow the first: an answer of 32 tokens, a spectrogram of 256 frames, a picture. Labels are kept."""

GUIDED = ("img_dec/text", "img_dec/unet")
"""Called twice, with the prompt and without one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A graph called ``times`` times, by a sequence of ``steps`` if it takes one."""

    graph: str
    steps: int = 1
    times: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """What a task calls until the first step is done, and on each further one; ``unit`` is what a step makes."""

    first: tuple[Call, ...]
    each: tuple[Call, ...]
    unit: str


@dataclass(frozen=True, slots=True)
class Sum:
    """Calls together on a target."""

    seconds: float
    taken: int
    """Multiply-accumulates on the target."""
    macs: int
    """All of them, of the graphs that can be judged."""
    outside: tuple[str, ...]
    """Graphs of which the target takes nothing."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Tasks of one route on a target."""

    tasks: tuple[str, ...]
    path: int
    route: Route
    first: Sum
    each: Sum

    @property
    def further(self) -> int:
        """How many steps follow the first."""
        return FURTHER.get(self.route.unit, 0)

    @property
    def seconds(self) -> float:
        """The least time of a whole answer."""
        return self.first.seconds + self.further * self.each.seconds

    @property
    def share(self) -> float:
        """The share of a whole answer's multiply-accumulates that run on the target, 0 to 1."""
        macs = self.first.macs + self.further * self.each.macs
        return (self.first.taken + self.further * self.each.taken) / macs if macs else 0.0


def route_of(task: Task) -> Route:
    """Return the calls of a task."""
    first, each = [], []
    for graph in task.graphs:
        times = 2 if graph in GUIDED else 1
        if graph != LABEL_READER:
            first.append(Call(graph, PROMPT if graph in WRITER else 1, times))
        if graph in UNITS:
            each.append(Call(graph, 1, times))
    return Route(tuple(first), tuple(each), UNITS[each[0].graph] if each else "")


def with_figures(targets: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets by name or path, ``all`` for all that m4c has figures of.

    Raises:
        UsageError: if there are no figures of one, or none is named.
    """
    known = [target for target in map(load_target, names()) if target.figures]
    if "all" in targets:
        return tuple(known)
    found = tuple(map(load_target, dict.fromkeys(targets)))
    wrong = [target.name for target in found if not target.figures]
    if wrong or not found:
        raise UsageError(
            f"it is not known how fast {', '.join(wrong)} is" if wrong else "a time is that of a target",
            fix=f"give --target {', '.join(target.name for target in known)}, or a profile with [figures]",
        )
    return found


def timed(
    targets: Sequence[Target], preset: str, progress: Progress, jobs: int
) -> Mapping[str, tuple[Timed, ...]]:
    """Return by target how long each route takes, tasks of one route together; ``jobs`` processes capture (0: one a core)."""
    routes: dict[Route, list[str]] = {}
    for name, task in TASKS.items():
        routes.setdefault(route_of(task), []).append(name)
    calls = {(call.graph, call.steps) for route in routes for call in (*route.first, *route.each)}
    submodels = tuple(dict.fromkeys(graph.partition("/")[0] for graph, _ in sorted(calls)))
    work = partial(_judged, tuple(sorted(calls)), preset, tuple(targets))
    parts = in_processes(work, submodels, progress, jobs)
    found: dict[str, tuple[Timed, ...]] = {}
    for target in targets:
        judged = {call: one for part in parts for call, one in part[target.name].items()}
        found[target.name] = tuple(
            Timed(
                tuple(tasks), TASKS[tasks[0]].path, route, _sum(route.first, judged), _sum(route.each, judged)
            )
            for route, tasks in sorted(routes.items(), key=lambda item: TASKS[item[1][0]].path)
        )
    return found


def submodels_called() -> int:
    """Return of how many sub-models graphs are called: the total of a progress bar."""
    return len({graph.partition("/")[0] for task in TASKS.values() for graph in task.graphs})


def _judged(
    calls: tuple[tuple[str, int], ...],
    preset: str,
    targets: tuple[Target, ...],
    name: str,
    progress: Progress,
) -> dict[str, dict[tuple[str, int], Judged]]:
    """Capture the called graphs of a sub-model at the sizes of their calls, and judge each on every target."""
    from m4c.capture import capture
    from m4c.models import build
    from m4c.skeleton import skeleton

    with skeleton():
        submodel = build(name, preset)
    graphs = {graph.name: graph for graph in submodel.graphs_for()}
    found: dict[str, dict[tuple[str, int], Judged]] = {target.name: {} for target in targets}
    for call, steps in calls:
        if call not in graphs:
            continue
        graph = graphs[call]
        sizes = {**graph.static, "sequence": steps}
        if call in WRITER and graph.max_steps is not None:
            sizes["past"] = min(PAST, graph.max_steps - PROMPT)
        progress.stage(call, "capture")
        model = capture(graph.sized(sizes))
        progress.stage(call, "passes")
        for target, one in of_model(model, call, targets).items():
            found[target][call, steps] = one
        progress.finished(call)
    progress.completed(name)
    return found


def _sum(calls: Iterable[Call], judged: Mapping[tuple[str, int], Judged]) -> Sum:
    seconds, taken, macs = 0.0, 0, 0
    outside = []
    for call in calls:
        one = judged[call.graph, call.steps]
        if not isinstance(one, Placement) or not one.delegated:
            outside.append(call.graph)
        if isinstance(one, Placement):
            seconds += call.times * (one.seconds or 0.0)
            taken += call.times * one.taken.macs
            macs += call.times * one.whole.macs
    return Sum(seconds, taken, macs, tuple(outside))
