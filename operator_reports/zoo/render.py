"""The zoo's report for people and for programs: how the union of operator types grows from task to task, beside M4's."""

from collections.abc import Mapping

from rich.table import Table

from m4c.operator_reports.render import PAPER_TYPES
from m4c.operator_reports.zoo.baseline import LEVELS, SCHEMA, Baseline, Step
from m4c.operator_reports.zoo.registry import ENTRIES

PAPER_ZOO = 156
PAPER = f"the paper (Figure 14): {PAPER_TYPES} types for M4, {PAPER_ZOO} for the models of 50 tasks"
"""Quoted, never computed; docs/operator_count.md says why ours differ."""

_UNION = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
ConvTranspose Cos CumSum Div Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements Gemm GlobalAveragePool
Greater GreaterOrEqual Identity If InstanceNormalization LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul
Max MaxPool Min Mul Neg NonMaxSuppression NonZero Not PRelu Pad Pow RNN Range Reciprocal ReduceL2 ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize RoiAlign Round ScatterElements Shape Sigmoid Sin Slice
Softmax Split Sqrt Squeeze Sub Tanh Tile TopK Transpose Trilu Unsqueeze Where
"""

TORCHSCRIPT = {
    "exporter": "torch 1.13.1, TorchScript, opset 14 (the exporter of the paper's time)",
    "builders": 43,
    "exported": 39,
    "union": _UNION.split(),
}
"""A count made once by the exporter of the paper's time, torchvision's detectors whole; it cannot run beside this torch."""


def to_table(found: Baseline) -> Table:
    """Return a row a task: types of its model and of all so far at each level, and what is new in ONNX."""
    table = Table(title=_title(found), caption=f"° a proxy   {PAPER}")
    table.add_column("task")
    table.add_column("model", no_wrap=True)
    table.add_column("10⁶ parameters", justify="right")
    for level in LEVELS:
        table.add_column(f"{level}\nown", justify="right")
        table.add_column("all", justify="right")
    table.add_column("new after the exporter's optimizer", overflow="fold")
    growths = {level: found.growth(level) for level in LEVELS}
    for index, entry in enumerate(ENTRIES):
        steps = [growths[level][index] for level in LEVELS]
        cells = [cell for step in steps for cell in (str(len(step.types)), str(step.union))]
        new = found.failed(entry) or " ".join(growths["optimized"][index].new)
        name = entry.model + ("°" if entry.proxy else "")
        table.add_row(entry.task, name, f"{found.parameters(entry) / 1e6:.4g}", *cells, new)
    table.add_section()
    own = [cell for level in LEVELS for cell in (str(len(found.m4(level))), "")]
    table.add_row("all", "M4", "", *own, f"{len(found.data['m4'])} graphs at the paper's sizes", style="bold")
    return table


def to_frequencies(found: Baseline, level: str = "optimized") -> Table:
    """Return a row an operator: in the models of how many tasks it occurs, and in how many of M4's graphs."""
    table = Table(title=f"Use of the types ({LEVELS[level]})")
    table.add_column("operator")
    for heading in ("tasks", "share", "M4's graphs", "share"):
        table.add_column(heading, justify="right")
    for operator, tasks, graphs in _uses(found, level):
        shares = [f"{tasks / len(ENTRIES):.0%}", f"{graphs / len(found.data['m4']):.0%}"]
        table.add_row(operator, str(tasks), shares[0], *((str(graphs), shares[1]) if graphs else ("", "")))
    return table


def _uses(found: Baseline, level: str) -> list[tuple[str, int, int]]:
    """Return every type with the tasks and the graphs of M4 that use it, what M4 alone has at the end."""
    tasks, graphs = found.uses(level), found.m4_uses(level)
    return [(operator, tasks.get(operator, 0), graphs.get(operator, 0)) for operator in (tasks | graphs)]


def to_markdown(found: Baseline) -> str:
    """Return a Markdown page: the growth, then the use of the types."""
    head = " | ".join(f"{level} own | all" for level in LEVELS)
    lines = [f"# {_title(found)}", "", f"| task | model | {head} | new |", "|---|---|" + "---:|" * 8 + "---|"]
    growths = {level: found.growth(level) for level in LEVELS}
    for index, entry in enumerate(ENTRIES):
        cells = " | ".join(f"{len(s[index].types)} | {s[index].union}" for s in growths.values())
        new = found.failed(entry) or " ".join(growths["optimized"][index].new)
        lines.append(f"| {entry.task} | {entry.model}{'°' if entry.proxy else ''} | {cells} | {new} |")
    cells = " | ".join(f"{len(found.m4(level))} | " for level in LEVELS)
    lines += [f"| all | **M4** | {cells} | |", "", f"° a proxy. For comparison, {PAPER}.", ""]
    lines += ["| operator | tasks | M4's graphs |", "|---|---:|---:|"]
    lines += [f"| {o} | {tasks} | {graphs} |" for o, tasks, graphs in _uses(found, "optimized")]
    return "\n".join([*lines, ""])


def to_json(found: Baseline) -> dict[str, object]:
    """Return a plain object: tasks with their counts, the growth and the use of the types at each level, M4's types."""
    return {
        "schema": SCHEMA,
        "kind": "zoo",
        "opset": found.data["opset"],
        "libraries": found.data["libraries"],
        "levels": LEVELS,
        "tasks": [
            {
                "task": e.task,
                "model": e.model,
                "builder": e.builder,
                "parameters": found.parameters(e),
                "paper_millions": e.paper,
                "differs": e.differs,
                "proxy": e.proxy,
                "host": e.host,
                "failed": found.failed(e),
                "operators": {level: found.counts(e, level) for level in LEVELS},
            }
            for e in ENTRIES
        ],
        "growth": {level: [_step(step) for step in found.growth(level)] for level in LEVELS},
        "uses": {level: found.uses(level) for level in LEVELS},
        "m4": {level: found.m4(level) for level in LEVELS},
        "m4_uses": {level: found.m4_uses(level) for level in LEVELS},
        "torchscript": TORCHSCRIPT,
        "paper": {"m4": PAPER_TYPES, "zoo": PAPER_ZOO, "source": PAPER},
    }


def _step(step: Step) -> Mapping[str, object]:
    return {"task": step.entry.task, "types": len(step.types), "new": list(step.new), "union": step.union}


def _title(found: Baseline) -> str:
    counted = sum(not found.failed(e) for e in ENTRIES)
    proxies = sum(bool(e.proxy) for e in ENTRIES)
    torch = found.data["libraries"]["torch"]
    models = f"{counted} of {len(ENTRIES)} task-specific models, {proxies} of them proxies"
    return f"{models}: torch {torch}, opset {found.data['opset']}"
