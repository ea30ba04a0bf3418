"""A placement report for people and for programs: tables for the terminal, or one JSON object."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from m4c.operator_reports.cost import parameter_bytes
from m4c.operator_reports.coverage import of_graphs
from m4c.operator_reports.placement import LEVELS, Break, Cause, Judged, NotConverted, Placement
from m4c.targets.legality import Reason
from m4c.targets.partition import Partition

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""


def summary(found: Sequence[Judged], target: str) -> Table:
    """Return a row a graph: how much of it runs on the target, in how many partitions, and what breaks it first."""
    table = Table(title=f"What runs on {target}", caption=_caption(found))
    for heading in ("graph", "outcome"):
        table.add_column(heading, no_wrap=True)
    for heading in ("nodes", "MACs", "bytes", "partitions", "crossing"):
        table.add_column(heading, justify="right")
    table.add_column("first break", overflow="fold")
    for one in found:
        table.add_row(*_row(one))
    return table


def _row(one: Judged) -> tuple[str, ...]:
    if isinstance(one, NotConverted):
        return one.name, "not converted", "", "", "", "", "", one.why
    whole, taken = one.whole, one.taken
    first = one.first_break
    if one.refused is not None:
        text = f"the whole model: {one.refused.text}"
    else:
        text = "" if first is None else f"#{first.node.index} {first.node.operator} ({first.node.where})"
    eligible, delegated = len(one.cut.eligible), len(one.cut.delegated)
    return (
        one.graph.name,
        one.outcome,
        _share(len(one.delegated), len(one.graph.nodes)),
        _share(taken.macs, whole.macs),
        _share(taken.bytes, whole.bytes),
        str(delegated) if delegated == eligible else f"{delegated} of {eligible}",
        _amount(one.crossing, "B"),
        text,
    )


def reasons(found: Sequence[Judged]) -> Table | None:
    """Return a row a reason, each with its fix, or None if everything runs."""
    table = Table("operator", "graph", title="Why not")
    table.add_column("nodes", justify="right")
    for heading in ("reason", "fix"):
        table.add_column(heading, overflow="fold")
    for one in found:
        if isinstance(one, NotConverted):
            table.add_row("", one.name, "", one.why, one.fix)
            continue
        for cause in one.causes:
            table.add_row(
                cause.operator, one.graph.name, str(cause.count), cause.reason.text, cause.reason.fix
            )
    return table if table.rows else None


def notes(found: Sequence[Judged]) -> list[str]:
    """Return sentences that no table has: upper figures of a prefix, doubts, memory of the chip, least times."""
    lines = []
    for one in found:
        if isinstance(one, NotConverted):
            continue
        name = one.graph.name
        if one.cut.closed is not None and one.refused is None and len(one.cut.closed) > len(one.cut.nodes):
            lines.append(
                f"{name}: {len(one.cut.nodes)} nodes come before the first break; if branches beside it are taken as well "
                f"(not documented), {len(one.cut.closed)}"
            )
        if one.whole.unknown:
            lines.append(
                f"{name}: {one.whole.unknown} nodes have sizes that are not known, and count without them"
            )
        if one.streamed_bytes:
            lines.append(
                f"{name}: {_amount(one.streamed_bytes, 'B')} of parameters do not fit on the chip and move on every call"
            )
        if one.seconds:
            lines.append(
                f"{name}: at least {one.seconds * 1e3:.3g} ms on the target: an estimate from its published figures"
            )
        lines += [f"{name}: {cause.count} × {cause.reason.text}, in doubt" for cause in one.doubts]
    return lines


def _caption(found: Sequence[Judged]) -> str:
    """Return the evidence of the figures, in words."""
    levels = sorted({one.evidence for one in found if isinstance(one, Placement)})
    text = "; ".join(f"evidence: {level} ({LEVELS[level]})" for level in levels)
    assumed = sorted({one.assumed for one in found if isinstance(one, Placement) and one.assumed})
    return f"{text}; judged as if quantized to {assumed[0]}: nothing was calibrated" if assumed else text


SHOWN = 20
"""How many reasons a Markdown page has, so that it fits a comment; the text and the JSON object have all."""


def to_markdown(found: Sequence[Judged], target: str) -> str:
    """Return a short Markdown page, as a comment on a change has it: a row a graph, and the reasons folded away."""
    lines = [f"### What runs on {_cell(target)}", ""]
    lines += _markdown(summary(found, target))
    lines += ["", f"{_caption(found)}.", ""] if _caption(found) else [""]
    why = reasons(found)
    if why is not None:
        more = len(why.rows) - SHOWN
        lines += [f"<details><summary>Why not: {len(why.rows)} reasons</summary>", ""]
        lines += _markdown(why, SHOWN)
        lines += ["", f"… and {more} more: `m4c report … --target {target}`"] if more > 0 else []
        lines += ["", "</details>", ""]
    lines += [f"- {line}" for line in notes(found)[:SHOWN]]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(table: Table, most: int | None = None) -> list[str]:
    """Return the lines of a table, of at ``most`` so many rows."""
    heads = [str(column.header) for column in table.columns]
    sides = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = list(zip(*(column.cells for column in table.columns), strict=True))[:most]
    return [f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in (heads, sides, *rows)]


def _cell(text: str) -> str:
    """Return a text that neither ends a cell nor is taken for a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def to_json(found: Sequence[Judged], target: str) -> dict[str, object]:
    """Return a plain object of version ``SCHEMA``, equal for equal graphs."""
    return {
        "schema": SCHEMA,
        "kind": "placement",
        "target": target,
        "graphs": [_json(one) for one in found],
    }


def to_json_of_many(pages: Sequence[dict[str, object]]) -> dict[str, object]:
    """Return the objects of several targets, made by :func:`to_json`, as one of version ``SCHEMA``."""
    return {"schema": SCHEMA, "kind": "placements", "targets": list(pages)}


def _json(one: Judged) -> dict[str, Any]:
    if isinstance(one, NotConverted):
        return {"graph": one.name, "outcome": "not converted", "why": one.why, "fix": one.fix}
    return {
        "graph": one.graph.name,
        "format": one.graph.format,
        "runtime": one.runtime,
        "outcome": one.outcome,
        "evidence": one.evidence,
        "evidence_means": LEVELS[one.evidence],
        "assumed_precision": one.assumed or None,
        "operators": of_graphs([one.graph]),
        "parameter_bytes": parameter_bytes(one.graph.nodes),
        "nodes": {"all": len(one.graph.nodes), "legal": one.legal, "delegated": len(one.delegated)},
        "macs": {"all": one.whole.macs, "delegated": one.taken.macs},
        "bytes": {"all": one.whole.bytes, "delegated": one.taken.bytes},
        "unknown_nodes": one.whole.unknown,
        "partitions": {
            "eligible": [_partition(partition) for partition in one.cut.eligible],
            "delegated": [_partition(partition) for partition in one.cut.delegated],
        },
        "ancestor_closed_nodes": None if one.cut.closed is None else len(one.cut.closed),
        "refused": None if one.refused is None else reason_json(one.refused),
        "first_break": _break(one.first_break),
        "reasons": [_cause(cause) for cause in one.causes],
        "doubts": [_cause(cause) for cause in one.doubts],
        "streamed_parameter_bytes": one.streamed_bytes,
        "least_seconds": one.seconds,
    }


def _partition(partition: Partition) -> dict[str, Any]:
    return {
        "nodes": list(partition.nodes),
        "inputs": [tensor.name for tensor in partition.inputs],
        "outputs": [tensor.name for tensor in partition.outputs],
        "bytes": partition.bytes,
    }


def _break(found: Break | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "node": found.node.index,
        "operator": found.node.operator,
        "where": found.node.where,
        "reasons": [reason_json(reason) for reason in found.reasons],
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "operator": cause.operator,
        "nodes": cause.count,
        "where": cause.where,
        **reason_json(cause.reason),
    }


def reason_json(reason: Reason) -> dict[str, Any]:
    """Return a reason as a plain object."""
    return {
        "text": reason.text,
        "fix": reason.fix,
        "source": reason.source,
        "evidence": reason.evidence,
        "refuses": reason.refuses,
    }


def _share(part: int, whole: int) -> str:
    """Return a part, the whole and the percentage; nothing of nothing is a dash."""
    if not whole:
        return "–"
    return f"{_amount(part)} of {_amount(whole)} ({part / whole:.0%})"


def _amount(count: int, unit: str = "") -> str:
    """Return a number for people: 1.8 M, 4.4 MB."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {letter}{unit}".rstrip()
    return f"{count} {unit}".rstrip()
