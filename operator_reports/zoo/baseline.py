"""What was measured of the zoo and of M4, as data: read, written, and asked. No torch is needed for it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m4c.operator_reports.zoo.registry import ENTRIES, Entry

SCHEMA = 1
"""Version of the stored file: it changes when a key is renamed, removed or means something else."""

STORED = Path(__file__).resolve().parent.parent / "baseline" / "zoo.json"
"""The file that comes with m4c."""

LEVELS = {
    "aten": "torch operators in torch.export's program",
    "onnx": "as torch's exporter translates it, nothing removed",
    "optimized": "after the exporter's own optimizer: what a user of torch.onnx.export gets",
    "canonical": "after m4c's passes",
}
"""Where operators are counted, from torch to what m4c emits."""

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """The union after one more task: types of its own model, those no task before has, and how many all have so far."""

    entry: Entry
    types: tuple[str, ...]
    new: tuple[str, ...]
    union: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """The stored counts."""

    data: Mapping[str, Any]

    def failed(self, entry: Entry) -> str:
        """Return why the model of a task could not be counted, or nothing."""
        return str(self.data["models"][entry.builder].get("failed", ""))

    def parameters(self, entry: Entry) -> int:
        """Return the parameters of the model of a task."""
        return int(self.data["models"][entry.builder]["parameters"])

    def counts(self, entry: Entry, level: str) -> Counts:
        """Return how often each type occurs in the graphs of a task's model together; nothing for one that failed."""
        if self.failed(entry):
            return {}
        return _sum(graph[level] for graph in self.data["models"][entry.builder]["graphs"].values())

    def m4(self, level: str) -> Counts:
        """Return how often each type occurs in all graphs of M4 together."""
        return _sum(graph[level] for graph in self.data["m4"].values())

    def growth(self, level: str) -> tuple[Step, ...]:
        """Return the union after each task in turn."""
        seen: set[str] = set()
        steps = []
        for entry in ENTRIES:
            types = set(self.counts(entry, level))
            new = types - seen
            seen |= types
            steps.append(Step(entry, tuple(sorted(types)), tuple(sorted(new)), len(seen)))
        return tuple(steps)

    def uses(self, level: str) -> dict[str, int]:
        """Return in the models of how many tasks each type occurs, the most common first."""
        found = Counter(operator for entry in ENTRIES for operator in self.counts(entry, level))
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def m4_uses(self, level: str) -> dict[str, int]:
        """Return in how many of M4's graphs each type occurs, the most common first."""
        found = Counter(operator for graph in self.data["m4"].values() for operator in graph[level])
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _sum(counts: Iterable[Counts]) -> Counts:
    return dict(sorted(sum((Counter(c) for c in counts), Counter[str]()).items()))


def stored() -> Baseline:
    """Return what comes with m4c."""
    return Baseline(json.loads(STORED.read_text("utf-8")))


def store(data: Mapping[str, Any]) -> None:
    """Replace what comes with m4c."""
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(data, indent=1, sort_keys=False) + "\n", "utf-8")
