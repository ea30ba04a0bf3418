"""The least time of every route for people and for programs."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from m4c.operator_reports.latency import FURTHER, PAST, PROMPT, Call, Sum, Timed
from m4c.targets.profile import Target

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""

ESTIMATE = (
    "estimated, a lower bound: the profile's peak figures, and nothing waits; steps of the host and nodes on the CPU, what is "
    f"missing to 100 %, are not in it. A prompt has {PROMPT} tokens, the cache room for {PAST} if the model knows so many"
)

HEADINGS = ("tasks", "path", "first, s", "each further", "s", "so many", "all, s", "MACs on it", "outside")

Found = Mapping[str, Sequence[Timed]]


def to_table(found: Sequence[Timed], target: Target) -> Table:
    """Return a row a route."""
    table = Table(title=f"Routes on {target.name}", caption=f"{ESTIMATE}. {_source(target)}")
    for heading in HEADINGS:
        table.add_column(
            heading, justify="right" if heading not in ("tasks", "each further", "outside") else "left"
        )
    for one in found:
        table.add_row(*_cells(one))
    return table


def to_markdown(found: Sequence[Timed], target: Target) -> str:
    """Return the same as Markdown."""
    lines = [
        f"`{target.name}`:",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    lines += [f"| {' | '.join(_cells(one))} |" for one in found]
    return "\n".join([*lines, "", f"{ESTIMATE}. {_source(target)}.", ""])


def to_json(found: Found, targets: Sequence[Target], preset: str) -> dict[str, object]:
    """Return a plain object of version ``SCHEMA``: of each target every route with its calls and sums."""
    return {
        "schema": SCHEMA,
        "kind": "routes",
        "preset": preset,
        "estimate": ESTIMATE,
        "further": FURTHER,
        "targets": [
            {
                "target": target.name,
                "source": target.figures.source if target.figures else "",
                "routes": [_route(one) for one in found[target.name]],
            }
            for target in targets
        ],
    }


def _route(one: Timed) -> dict[str, object]:
    return {
        "tasks": list(one.tasks),
        "path": one.path,
        "unit": one.route.unit,
        "first": _calls(one.route.first, one.first),
        "each": _calls(one.route.each, one.each),
        "further": one.further,
        "seconds": one.seconds,
        "share": one.share,
    }


def _calls(calls: Sequence[Call], sums: Sum) -> dict[str, object]:
    return {
        "calls": [{"graph": call.graph, "steps": call.steps, "times": call.times} for call in calls],
        "seconds": sums.seconds,
        "macs": {"all": sums.macs, "delegated": sums.taken},
        "outside": list(sums.outside),
    }


def _cells(one: Timed) -> tuple[str, ...]:
    outside = dict.fromkeys((*one.first.outside, *one.each.outside))
    return (
        " ".join(one.tasks),
        str(one.path),
        f"{one.first.seconds:.3g}",
        one.route.unit,
        f"{one.each.seconds:.3g}" if one.route.unit else "",
        str(one.further) if one.route.unit else "",
        f"{one.seconds:.3g}",
        f"{one.share:.0%}",
        " ".join(outside),
    )


def _source(target: Target) -> str:
    return f"Figures: {target.figures.source}" if target.figures else ""
