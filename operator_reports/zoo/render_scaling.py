"""The report on scaling for people and for programs: bytes on the disk and in memory after some of the 50 tasks, or each."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from m4c.operator_reports.zoo.registry import ENTRIES
from m4c.operator_reports.zoo.scaling import M4, MODELS, PAPER, SCHEMA, Point, Scaling

SHOWN = (1, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50)
"""Numbers of tasks that have a row."""

ESTIMATE = "estimated from shapes; nothing was loaded on a device"

SAID = (
    f"the paper ({PAPER['source']}): M4 is smaller from about {PAPER['break_even_tasks']} tasks on; at 50 the models take "
    f"{PAPER['models_gigabytes']} GB, {PAPER['storage_ratio']} times M4's, and {PAPER['memory_ratio']} times its memory, "
    f"{PAPER['m4_memory_gigabytes']} GB"
)


def _lines(found: Scaling) -> dict[str, tuple[Point, ...]]:
    """Return every line of the figures by its words."""
    models = {f"models {precision}": found.models(precision) for precision in MODELS}
    return models | {f"M4 {build}": found.m4(build) for build in M4}


def to_tables(found: Scaling) -> tuple[Table, Table]:
    """Return a table of storage and one of memory, in 10⁹ bytes."""
    lines = _lines(found)
    tables = []
    for title, of in (("Storage", "storage"), ("Resident memory", "memory")):
        table = Table(
            title=f"{title}, GB: {ESTIMATE}", caption=_break_even(found) if of == "storage" else SAID
        )
        for heading in ("tasks", *lines):
            table.add_column(heading, justify="right")
        for count in SHOWN:
            table.add_row(str(count), *_cells(lines.values(), count, of))
        tables.append(table)
    return tables[0], tables[1]


def to_markdown(found: Scaling) -> str:
    """Return both tables and what the paper says as Markdown."""
    lines = _lines(found)
    page = []
    for title, of in (("Storage", "storage"), ("Resident memory", "memory")):
        page += [f"{title}, GB, {ESTIMATE}:", "", f"| tasks | {' | '.join(lines)} |"]
        page += ["|---:" * (len(lines) + 1) + "|"]
        page += [f"| {count} | {' | '.join(_cells(lines.values(), count, of))} |" for count in SHOWN]
        page += [""]
    return "\n".join([*page, f"{_break_even(found)}.", "", f"For comparison, {SAID}.", ""])


def to_json(found: Scaling) -> dict[str, object]:
    """Return a plain object of version ``SCHEMA``: after each task the bytes of every line, and what they are made of."""
    return {
        "schema": SCHEMA,
        "kind": "scaling",
        "estimate": ESTIMATE,
        "tasks": [entry.task for entry in ENTRIES],
        "lines": {
            name: {"storage": [p.storage for p in points], "memory": [p.memory for p in points]}
            for name, points in _lines(found).items()
        },
        "break_even": {b: {p: found.break_even(b, p) for p in MODELS} for b in M4},
        "activations": {
            "models": {entry.task: found.activations(entry) for entry in ENTRIES},
            "m4": found.m4_activations(),
        },
        "adapters": {entry.task: found.adapter(entry.task) for entry in ENTRIES},
        "m4": found.data["m4"],
        "paper": PAPER,
    }


def _cells(lines: Iterable[Sequence[Point]], count: int, of: str) -> list[str]:
    return [f"{getattr(points[count - 1], of) / 1e9:.2f}" for points in lines]


def _break_even(found: Scaling) -> str:
    """Return from how many tasks on each build of M4 is smaller than the models in float16 and in float32."""
    said = []
    for build in M4:
        counts = {precision: found.break_even(build, precision) for precision in ("float32", "float16")}
        said += [f"M4 {build} than {p} from {n} tasks on" for p, n in counts.items() if n]
    return "smaller: " + ", ".join(said)
