"""Figures of what a comparison is given: a bundle, a stored report or baseline, or a model file."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m4c.bundle import MANIFEST
from m4c.errors import UsageError
from m4c.operator_reports.coverage import of_file
from m4c.operator_reports.gate.figures import (
    KIND,
    NOT_CONVERTED,
    Figures,
    GraphFigures,
    Share,
    external_bytes,
    from_text,
    of_bundle,
    of_judged,
    with_files,
)
from m4c.operator_reports.judged import judged
from m4c.progress import Silent
from m4c.targets.profile import Target

REPORTS = ("placement", "operators")
"""The kinds of reports that hold figures."""


def load(subject: str, target: Target | None) -> Figures:
    """Return the figures of ``subject``; without a target, what is known without asking one.

    Raises:
        UsageError: if it is nothing of the kind, or a report of another schema.
    """
    path = Path(subject)
    if path.suffix == ".json" and path.is_file():
        return _stored(path)
    is_bundle = (path / MANIFEST).is_file()
    if not is_bundle and not path.is_file():
        raise UsageError(
            f"there is nothing to compare at {subject}",
            fix="give a bundle, a report or baseline in JSON, an .onnx or a .tflite file",
        )
    if target is not None:
        found = judged(subject, target, Silent())
        return with_files(of_judged(subject, target.name, found), path)
    if is_bundle:
        return dataclasses.replace(of_bundle(path), subject=subject)
    counted = of_file(path)
    size = path.stat().st_size + external_bytes(path)
    graph = GraphFigures(counted.format, "", counted.counts, size=size)
    return Figures(subject, "", "", {counted.graph: graph})


def _stored(path: Path) -> Figures:
    """Read a baseline, or a report that ``m4c report --format json`` wrote."""
    try:
        text = path.read_text("utf-8")
        table = json.loads(text)
        kind = table.get("kind") if isinstance(table, dict) else None
        if kind == KIND:
            return dataclasses.replace(from_text(text, str(path)), subject=str(path))
        if kind not in REPORTS:
            raise ValueError(f"its kind is {kind!r}, not one of {', '.join((KIND, *REPORTS))}")
        if table.get("schema") != 1:
            raise ValueError(f"it has schema {table.get('schema')}, this m4c reads 1")
        make = _placed if kind == "placement" else _counted
        graphs = {str(one["graph"]): make(one) for one in table["graphs"]}
        return Figures(str(path), str(table.get("target", "")), "", graphs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"no report that can be compared: {error}",
            where=str(path),
            fix="write one with m4c report … --format json",
        ) from error


def _counted(one: Mapping[str, Any]) -> GraphFigures:
    return GraphFigures(one["format"], "", dict(one["operators"]))


def _placed(one: Mapping[str, Any]) -> GraphFigures:
    if one["outcome"] == NOT_CONVERTED:
        return GraphFigures("", NOT_CONVERTED)
    nodes, macs, moved = (Share(one[key]["all"], one[key]["delegated"]) for key in ("nodes", "macs", "bytes"))
    return GraphFigures(
        one["format"],
        one["outcome"],
        dict(one.get("operators", {})),
        nodes,
        macs,
        moved,
        len(one["partitions"]["delegated"]),
        size=one.get("parameter_bytes"),
    )
