"""The outcome of a gate for people and programs: a table for the terminal, Markdown for a comment, one JSON object."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from m4c.operator_reports.gate.finding import Finding, Outcome, counted
from m4c.operator_reports.gate.waivers import Waiver

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""

ROWS = 20
"""How many findings the terminal shows, so that the first screen has the causes; JSON, JUnit and SARIF have all."""

COMMENT = 65_536
"""Characters of a comment on GitHub."""


def headline(outcome: Outcome) -> str:
    """Return the result in one line."""
    figures, failures = outcome.figures, outcome.failures
    result = f"failed, {counted(len(failures), 'finding')}" if failures else "passed"
    waived = f", {len(outcome.waived)} waived" if outcome.waived else ""
    graphs, rules = len(figures.graphs), len({rule for _, rule in outcome.checked})
    held = f"{counted(graphs, 'graph')}, {counted(rules, 'rule')}, evidence: {figures.evidence}"
    return f"{figures.subject} on {figures.target}: {result}{waived} ({held})"


def to_table(outcome: Outcome) -> Table | None:
    """Return a row a failure, causes first, or None if there is none."""
    failures = outcome.failures
    if not failures:
        return None
    more = len(failures) - ROWS
    table = Table(caption=f"… and {more} more: --json has all" if more > 0 else None)
    table.add_column("rule", no_wrap=True)
    for heading in ("where", "what", "fix"):
        table.add_column(heading, overflow="fold")
    for one in failures[:ROWS]:
        table.add_row(one.rule, one.where or "all graphs", one.message, one.fix)
    return table


def lines(outcome: Outcome) -> Iterator[str]:
    """Yield what is to be told beside the failures: what is waived, waivers without use, what is better."""
    for one in outcome.waived:
        assert one.waiver is not None
        yield f"waived until {one.waiver.expires} by {one.waiver.owner}: {one.where or one.rule}: {one.text}"
    yield from outcome.notes
    if outcome.better:
        yield f"better than the baseline in {len(outcome.better)}; --update-baseline keeps that: {outcome.better[0]}"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return a plain object of version ``SCHEMA``, equal for equal outcomes."""
    return {
        "schema": SCHEMA,
        "kind": "gate",
        "subject": outcome.figures.subject,
        "target": outcome.figures.target,
        "evidence": outcome.figures.evidence,
        "passed": not outcome.failures,
        "findings": [_finding(one) for one in outcome.findings],
        "checked": [{"graph": graph, "rule": rule} for graph, rule in outcome.checked],
        "better": list(outcome.better),
        "notes": list(outcome.notes),
    }


def _finding(one: Finding) -> dict[str, Any]:
    place = one.place
    return {
        "rule": one.rule,
        "graph": one.graph or None,
        "text": one.text,
        "fix": one.fix,
        "node": None
        if place is None
        else {
            "graph": place.graph,
            "index": place.index,
            "operator": place.operator,
            "where": place.where,
            "reason": place.reason or None,
        },
        "waiver": None if one.waiver is None else waiver_json(one.waiver),
        "expired_waivers": [waiver_json(waiver) for waiver in one.expired],
    }


def waiver_json(waiver: Waiver) -> dict[str, Any]:
    """Return a waiver as a plain object, dates as ``2027-01-31``."""
    return {**dataclasses.asdict(waiver), "expires": waiver.expires.isoformat()}


def to_markdown(outcome: Outcome, most: int = COMMENT) -> str:
    """Return a page that fits a comment of ``most`` characters: as many failures as there is room for, the first always."""
    mark = "❌" if outcome.failures else "✅"
    head = [f"### {mark} m4c gate: {_cell(headline(outcome))}", ""]
    tail = _folded("Waived", [_waived(one) for one in outcome.waived])
    tail += _folded("Better than the baseline", [_cell(one) for one in outcome.better])
    tail += [f"- {_cell(note)}" for note in outcome.notes]
    for shown in _fewer(len(outcome.failures)):
        page = "\n".join([*head, *_rows(outcome.failures, shown), "", *tail]).rstrip() + "\n"
        if len(page) <= most:
            return page
    page = "\n".join([*head, *_rows(outcome.failures, 1)])
    return page if len(page) <= most else page[: most - 2] + "…\n"


def _fewer(count: int) -> Iterator[int]:
    """Yield how many rows to try: all, then half as many, and so on."""
    while count > 1:
        yield count
        count //= 2
    yield count


def _rows(failures: Sequence[Finding], shown: int) -> list[str]:
    if not failures:
        return []
    made = ["| rule | where | what | fix |", "| --- | --- | --- | --- |"]
    made += [
        f"| `{one.rule}` | {_cell(one.where or 'all graphs')} | {_cell(one.message)} | {_cell(one.fix)} |"
        for one in failures[:shown]
    ]
    more = len(failures) - shown
    return [*made, "", f"… and {more} more"] if more > 0 else made


def _waived(one: Finding) -> str:
    assert one.waiver is not None
    what = f"{one.where or one.rule}: {one.text}"
    return _cell(f"until {one.waiver.expires}, {one.waiver.owner} ({one.waiver.reason}): {what}")


def _folded(title: str, rows: Sequence[str]) -> list[str]:
    """Return a list that a reader opens, of at most :data:`ROWS` rows."""
    if not rows:
        return []
    more = [f"- … and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
    shown = [f"- {row}" for row in rows[:ROWS]]
    return [f"<details><summary>{title}: {len(rows)}</summary>", "", *shown, *more, "", "</details>", ""]


def _cell(text: str) -> str:
    """Return a text that neither ends a cell nor is taken for a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
