"""What 1 to 50 tasks need of a device, as task-specific models and as M4 with an adapter a task. No torch is needed for it.

Estimates: bytes follow from the shapes of the zoo's models and of M4's graphs, and nothing was loaded on a device.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from m4c.operator_reports.zoo.baseline import Baseline
from m4c.operator_reports.zoo.paths import PARTS
from m4c.operator_reports.zoo.registry import ENTRIES, Entry

SCHEMA = 1
"""Version of the stored file: it changes when a key is renamed, removed or means something else."""

STORED = Path(__file__).resolve().parent.parent / "baseline" / "scaling.json"
"""The file that comes with m4c."""

MODELS = {"float32": 4, "float16": 2, "int8": 1}
"""Precisions of the task-specific models: bytes a parameter."""

IN_INT4 = (
    "img_enc",
    "txt_enc",
    "aud_b_enc",
    "aud_i_enc",
    "imu_enc",
    "projection",
    "backbone",
    "gen_dec",
    "tts_dec",
)
"""Sub-models that are smaller in int4 than in float16. Convolutions stay float32 in int4: ``img_dec`` has too many."""

M4 = {
    "int8": {"backbone": "int8-weights"},
    "int4": {"backbone": "int4"},
    "int4 all": dict.fromkeys(IN_INT4, "int4"),
}
"""Builds of M4: what each sub-model is quantized to, float16 where nothing is said, which is how the paper builds it."""

REST = "float16"

FACTOR_BYTES = 4
"""Of a parameter of an adapter: m4c writes float32."""

PAPER = {
    "break_even_tasks": 15,
    "storage_ratio": 2.5,
    "models_gigabytes": 15.2,
    "memory_ratio": 5.1,
    "m4_memory_gigabytes": 7.5,
    "source": "Rethinking Mobile AI Ecosystem in the LLM Era, Figure 11: a Jetson Orin NX, M4's backbone in INT4",
}
"""Quoted, never computed."""


@dataclass(frozen=True, slots=True)
class Point:
    """Bytes after one more task: ``storage`` of files, ``memory`` of all that is resident."""

    task: str
    storage: int
    memory: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """The stored sizes, and the counts of the zoo."""

    data: Mapping[str, Any]
    zoo: Baseline

    def activations(self, entry: Entry) -> int:
        """Return the bytes of values of a task's model: that of its graphs which holds most."""
        return int(max(self.data["models"][entry.builder].values()))

    def models(self, precision: str) -> tuple[Point, ...]:
        """Return what task-specific models in a precision of ``MODELS`` need, task by task.

        Each is an app's own: its file, and in memory its weights and its own values, since no other app can use them.
        """
        sizes = [self.zoo.parameters(entry) * MODELS[precision] for entry in ENTRIES]
        resident = [size + self.activations(entry) for size, entry in zip(sizes, ENTRIES, strict=True)]
        return _points(accumulate(sizes), accumulate(resident))

    def m4(self, build: str) -> tuple[Point, ...]:
        """Return what M4 in a build of ``M4`` needs, task by task.

        All of it is stored and resident from the first task on. Its graphs are one service's and run one after the other: the
        one that holds most tells the bytes of values. Each task adds its adapter.
        """
        adapters = list(accumulate(self.adapter(entry.task) for entry in ENTRIES))
        weights = self.m4_bytes(build)
        values = max(self.m4_activations().values())
        return _points((weights + size for size in adapters), (weights + values + size for size in adapters))

    def m4_bytes(self, build: str) -> int:
        """Return the bytes of all of M4's files in a build of ``M4``, without adapters."""
        chosen = M4[build]
        return sum(one["bytes"][chosen.get(name, REST)] for name, one in self.data["m4"].items())

    def m4_activations(self) -> dict[str, int]:
        """Return the bytes of values of each graph of M4."""
        return {name: size for one in self.data["m4"].values() for name, size in one["activations"].items()}

    def adapter(self, task: str) -> int:
        """Return the bytes of a task's adapter; a task that hands embeddings to the backbone has a projection of its own."""
        parts, m4 = PARTS[task], self.data["m4"]
        factors = FACTOR_BYTES * m4[parts.adapted]["adapter"]
        return int(factors + ("projection" in parts.submodels) * m4["projection"]["bytes"][REST])

    def break_even(self, build: str, precision: str) -> int | None:
        """Return with how many tasks the models take more storage than M4; None if they never do."""
        pairs = zip(self.models(precision), self.m4(build), strict=True)
        return next((n for n, (models, m4) in enumerate(pairs, 1) if models.storage > m4.storage), None)


def _points(storage: Any, memory: Any) -> tuple[Point, ...]:
    return tuple(
        Point(entry.task, files, resident)
        for entry, files, resident in zip(ENTRIES, storage, memory, strict=True)
    )


def stored_scaling(zoo: Baseline) -> Scaling:
    """Return what comes with m4c, beside the counts of the ``zoo``."""
    return Scaling(json.loads(STORED.read_text("utf-8")), zoo)


def store_scaling(data: Mapping[str, Any]) -> None:
    """Replace what comes with m4c."""
    STORED.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
