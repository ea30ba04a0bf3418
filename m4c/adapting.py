"""``m4c adapters``: what is asked of an adapter before it is exported."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m4c import options

if TYPE_CHECKING:
    from m4c.adapters.compare import Comparison

app = typer.Typer(no_args_is_help=True, help="Compare the ways of carrying an adapter.")


@app.callback()
def _adapters() -> None:
    """Compare the ways of carrying an adapter."""


@app.command()
def compare(
    adapter: Annotated[Path, typer.Argument(help="A LoRA adapter: a folder that PEFT saved.")],
    submodel: Annotated[
        str, typer.Option(help="The sub-model, or graph, that it was trained for.")
    ] = "backbone",
    preset: options.Preset = "m4-nano",
    weights: options.Weights = None,
    file_format: options.FileFormat = None,
    quantize: options.Quantize = options.Precision.INT4,
    method: options.RoundingMethod = options.Method.RTN,
    group_size: options.GroupSize = None,
    asymmetric: options.Asymmetric = False,
    adapter_pickle: options.AdapterPickle = False,
    calls: Annotated[int, typer.Option(help="Calls that are timed.", min=1)] = 15,
    as_json: options.Json = False,
) -> None:
    """Measure an adapter merged, beside its base, and merged into rounded weights; print errors, sizes, times, advice."""
    import tempfile

    from m4c.adapters.compare import compare as compared
    from m4c.adapters.given import adapters
    from m4c.errors import UsageError
    from m4c.models import require_submodel
    from m4c.request import Request
    from m4c.scheme import scheme
    from m4c.targets.profile import load_target
    from m4c.terminal import ProgressBar

    name = submodel.partition("/")[0]
    require_submodel(name)
    precision = options.precision(quantize)
    rounding = scheme(precision, group_size, not asymmetric, method.value, (), None)
    if rounding is None or method is options.Method.GPTQ:
        what = f"{precision} weights are not compared" if rounding is None else "gptq needs samples"
        raise UsageError(what, fix="give --quantize int4 or int8-weights, and --method rtn or hqq")
    given = adapters([f"{name}={adapter}"], "separate", adapter_pickle, [name])
    assert given is not None
    request = Request(
        load_target("cpu"),
        (submodel,),
        preset=preset,
        weights=weights,
        format=file_format.value if file_format else None,
        precision=precision,
        scheme=rounding,
    )
    with tempfile.TemporaryDirectory(prefix="m4c-") as folder, ProgressBar(3) as progress:
        found = compared(request, given, Path(folder), calls, progress)
    _show(found, submodel, str(rounding), as_json)


def _show(found: "Comparison", submodel: str, rounding: str, as_json: bool) -> None:
    """Print the figures of all ways and the advice."""
    from rich.table import Table

    from m4c.adapters.compare import advice
    from m4c.terminal import show_json, show_table

    if as_json:
        table = _finite(dataclasses.asdict(found))
        show_json({"submodel": submodel, "rounding": rounding, **table, "advice": advice(found)})
        return
    shown = Table(f"{submodel}, {rounding}", "graph")
    for column in ("SQNR", "time of a call", "size", "each further adapter"):
        shown.add_column(column, justify="right")
    for way in found.ways:
        for graph, one in way.graphs.items():
            sizes = [f"{count / 1e6:.3g} MB" for count in (way.bytes, way.further_bytes)]
            shown.add_row(way.name, graph, f"{one.sqnr_db:.1f} dB", f"{one.milliseconds:.2f} ms", *sizes)
    for graph, effect in found.without_db.items():
        shown.add_row("float weights without it", graph, f"{effect:.1f} dB")
    show_table(shown)
    sys.stdout.write(f"{advice(found)}\n")


def _finite(table: object) -> "dict[str, object]":
    """Return plain data as JSON has it: None for a ratio where there was no noise."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    made = plain(table)
    assert isinstance(made, dict)
    return made
