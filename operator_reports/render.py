"""An operator report for people and for programs: a table, Markdown, or one JSON object."""

from collections.abc import Sequence

from rich.table import Table

from m4c.operator_reports.coverage import GraphOperators, OperatorUse, union
from m4c.targets.view import Format

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""

PAPER_TYPES = 39
PAPER_SOURCE = (
    "Rethinking Mobile AI Ecosystem in the LLM Era, Figure 14: M4's operator types, counted by its authors "
    "at opset 14 with Constant and Identity"
)
"""The figure that M4's reports are read beside. It is quoted, never computed."""


def to_table(graphs: Sequence[GraphOperators]) -> Table:
    """Return a table for the terminal: a row a graph, and one a format for the union."""
    table = Table(title="Operators", caption=f"the paper: {PAPER_TYPES} types ({PAPER_SOURCE})")
    table.add_column("graph", no_wrap=True)
    table.add_column("nodes", justify="right")
    table.add_column("types", justify="right")
    table.add_column("operators", overflow="fold")
    for g in graphs:
        table.add_row(g.graph, str(g.nodes), str(len(g.types)), " ".join(g.types))
    for form, uses in _unions(graphs).items():
        table.add_section()
        operators = " ".join(use.operator for use in uses)
        nodes = sum(use.nodes for use in uses)
        table.add_row(f"all ({form})", str(nodes), str(len(uses)), operators, style="bold")
    return table


def to_markdown(graphs: Sequence[GraphOperators]) -> str:
    """Return a Markdown page: the graphs, then for each format how common every operator is."""
    lines = ["# Operators", "", "| graph | nodes | types | operators |", "|---|---:|---:|---|"]
    lines += [
        f"| {_cell(g.graph)} | {g.nodes} | {len(g.types)} | {_cell(' '.join(g.types))} |" for g in graphs
    ]
    for form, uses in _unions(graphs).items():
        lines += [
            "",
            f"## {len(uses)} types of {form}",
            "",
            "| operator | graphs | share | nodes |",
            "|---|---:|---:|---:|",
        ]
        lines += [f"| {_cell(u.operator)} | {u.graphs} | {u.share:.0%} | {u.nodes} |" for u in uses]
    lines += ["", f"For comparison, the paper: **{PAPER_TYPES}** types ({PAPER_SOURCE}).", ""]
    return "\n".join(lines)


def to_json(graphs: Sequence[GraphOperators]) -> dict[str, object]:
    """Return a plain object of version ``SCHEMA``, equal for equal graphs.

    ``graphs`` holds each graph's counts, ``unions`` one entry a format with every operator's share of the graphs
    (0 to 1), ``paper`` the quoted figure.
    """
    return {
        "schema": SCHEMA,
        "kind": "operators",
        "graphs": [
            {
                "graph": g.graph,
                "format": g.format,
                "nodes": g.nodes,
                "types": len(g.types),
                "operators": dict(sorted(g.counts.items())),
            }
            for g in graphs
        ],
        "unions": [
            {
                "format": form,
                "graphs": sum(g.format == form for g in graphs),
                "nodes": sum(u.nodes for u in uses),
                "types": len(uses),
                "operators": {
                    u.operator: {"graphs": u.graphs, "share": u.share, "nodes": u.nodes} for u in uses
                },
            }
            for form, uses in _unions(graphs).items()
        ],
        "paper": {"types": PAPER_TYPES, "source": PAPER_SOURCE},
    }


def _unions(graphs: Sequence[GraphOperators]) -> dict[Format, tuple[OperatorUse, ...]]:
    """Return the union of each format that occurs; the names of one are not those of another."""
    formats: tuple[Format, ...] = ("onnx", "tflite")
    return {
        f: union([g for g in graphs if g.format == f]) for f in formats if any(g.format == f for g in graphs)
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
