"""A plan to keep a budget of operator types, for people and for programs."""

from collections.abc import Sequence

from rich.table import Table

from m4c.operator_reports.budget import Plan, Price, Step

SCHEMA = 1
"""Version of the JSON object: it changes when a key is renamed, removed or means something else."""

HEADINGS = ("give up", "graphs", "nodes", "types left", "written as", "with", "error", "time")

MEASURED = (
    "error: the largest difference as a share of the largest value; time: after / before; both of one small graph, float32 "
    "in ONNX Runtime on this machine, nodes as they are written"
)

Prices = Sequence[Price]


def verdict(plan: Plan) -> str:
    """Return in a sentence whether the budget is kept, and can be."""
    if not plan.exceeded:
        return f"{plan.types} operator types, within the budget of {plan.budget}"
    said = f"{plan.types} operator types are more than the budget of {plan.budget}"
    return said if plan.reachable else f"{said}, and the rewrites that are known lead to {len(plan.kept)}"


def fix(plan: Plan) -> str:
    """Return what to do about an exceeded budget."""
    gone = ", ".join(operator for step in plan.steps for operator in step.substitute.gives)
    if plan.reachable:
        return f"give up {gone}, as the report says, or allow --op-budget {plan.types}"
    return f"a budget of {len(plan.kept)} can be reached; of {', '.join(plan.kept)} no rewrite is left"


def to_table(plan: Plan, prices: Prices) -> Table:
    """Return a row a step."""
    table = Table(title=verdict(plan), caption=MEASURED)
    for heading in HEADINGS:
        words = heading in ("give up", "written as", "with")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for step, price in zip(plan.steps, prices, strict=True):
        table.add_row(*_cells(step, price))
    return table


def to_markdown(plan: Plan, prices: Prices) -> str:
    """Return the same as Markdown."""
    lines = [f"{verdict(plan)}.", "", f"| {' | '.join(HEADINGS)} |", "|---|---:|---:|---:|---|---|---:|---:|"]
    rows = (_cells(step, price) for step, price in zip(plan.steps, prices, strict=True))
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{MEASURED}.", ""])


def to_json(plan: Plan, prices: Prices) -> dict[str, object]:
    """Return a plain object of version ``SCHEMA``."""
    return {
        "schema": SCHEMA,
        "kind": "op-budget",
        "budget": plan.budget,
        "types": plan.types,
        "exceeded": plan.exceeded,
        "reachable": plan.reachable,
        "steps": [
            {
                "operators": {u.operator: {"graphs": u.graphs, "nodes": u.nodes} for u in step.uses},
                "into": list(step.substitute.into),
                "rewrite": step.substitute.says,
                "left": step.left,
                "error": price.error,
                "time_ratio": price.time,
            }
            for step, price in zip(plan.steps, prices, strict=True)
        ],
        "kept": list(plan.kept),
    }


def _cells(step: Step, price: Price) -> tuple[str, ...]:
    return (
        " ".join(step.substitute.gives),
        " ".join(str(use.graphs) for use in step.uses),
        " ".join(str(use.nodes) for use in step.uses),
        str(step.left),
        step.substitute.says,
        " ".join(step.substitute.into),
        f"{price.error:.1e}",
        f"{price.time:.2g}",
    )
