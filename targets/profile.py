"""Target profiles: one TOML a target, read strictly: a misspelt key, operator or constraint is an error, no silent default.

A profile says what is true of a target; :mod:`m4c.targets.legality` alone decides from it.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from m4c.errors import ProfileError
from m4c.precisions import BITS, INTEGER, PRECISIONS
from m4c.targets.operators import known_operators
from m4c.targets.rules import (
    ALGORITHMS,
    EVIDENCE,
    FLOAT_REWRITES,
    REWRITES,
    Compiler,
    Figures,
    Partitioning,
    Rule,
    Runtime,
    read_rule,
)
from m4c.targets.tables import Table

FORMATS = ("onnx", "tflite")
FALLBACKS = ("cpu", "error")
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
"""What Vela 5.2.0 compiles for: the processor and its multiply-accumulates in a cycle."""

SOCS = {"SM8550": ("43", "73"), "SM8650": ("57", "75"), "SM8750": ("69", "79"), "SM8850": ("87", "81")}
"""What QNN compiles for: a Snapdragon, its number and the architecture of its Hexagon in onnxruntime-qnn 2.7.0."""

COMPILERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "tflite": {"vela": ACCELERATORS, "litert_gpu": ("webgpu",)},
    "onnx": {"qnn": tuple(SOCS)},
}
"""The keys of the compilers that may be asked about graphs of a format, and what each compiles for."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where artifacts run, what they must be to run there, and which operators do."""

    name: str
    summary: str
    format: str
    """File format of its artifacts."""
    precision: str
    """Precision that a build has unless the user asks for another."""
    fallback: str
    """What a graph that cannot be built for the target gets: a build for ``cpu``, or an ``error``."""
    source: str
    """Where these facts are written."""
    runtimes: Mapping[str, Runtime] = field(default_factory=dict, compare=False)
    """Who runs the graphs of each format, and its rules."""
    figures: Figures | None = None
    """What its hardware can do, where that is published."""
    digest: str = ""
    """SHA-256 of the file it was read from: another one may make other artifacts."""

    def rewrites(self, file_format: str, precision: str) -> frozenset[str]:
        """Return what graphs of a format and a ``precision`` are rewritten by: those that compute as the target does.

        These are int8 graphs for a target in integers; for one in floats, those whose weights are floats too.
        """
        runtime = self.runtimes.get(file_format)
        floats = precision not in INTEGER and precision not in BITS
        fits = precision == "int8" if self.precision in INTEGER else floats
        return runtime.rewrites if runtime is not None and fits else frozenset()

    @property
    def static_shapes(self) -> bool:
        """Whether every dimension must be a number: a dynamic one makes the target refuse a whole artifact."""
        runtime = self.runtimes.get(self.format)
        return runtime is not None and any(
            str(constraint) == "static_shape" and rule.refuses == "model"
            for rule in runtime.rules
            for constraint in rule.every
        )


def names() -> tuple[str, ...]:
    """Return the names of the targets that come with m4c."""
    return tuple(
        sorted(
            f.name.removesuffix(".toml") for f in files("m4c.targets").iterdir() if f.name.endswith(".toml")
        )
    )


def load_target(name: str) -> Target:
    """Return a target by its name, or by the path of a TOML file.

    Raises:
        ProfileError: if there is none, or the file has an unknown key, operator or constraint, misses a key, or holds a wrong
            type.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ProfileError(
                f"there is no target profile at {path}", fix=f"give a file, or a name: {', '.join(names())}"
            )
        return _parse(_read(path), name)
    if name not in names():
        raise ProfileError(
            f"there is no target {name!r}", fix=f"known are: {', '.join(names())}, or a path to a .toml"
        )
    return _own(name)


@cache
def _own(name: str) -> Target:
    """Return a target that comes with m4c."""
    return _parse((files("m4c.targets") / f"{name}.toml").read_text("utf-8"), f"{name}.toml")


def _read(path: Path) -> str:
    """Return the text of a profile."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileError(
            f"not a text file: {error.reason}", where=str(path), fix="write it in UTF-8"
        ) from error


def _parse(text: str, where: str) -> Target:
    """Read a profile strictly."""
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"not TOML: {error}", where=where, fix="write text in quotes") from error
    table = Table(content, where)
    table.allow("name", "summary", "format", "precision", "fallback", "source", "figures", *FORMATS)
    integer = table.text("precision", PRECISIONS) in INTEGER
    runtimes = {form: _runtime(table.table(form), form, integer) for form in FORMATS if form in content}
    made = Target(
        table.text("name"),
        table.text("summary"),
        table.text("format", FORMATS),
        table.text("precision", PRECISIONS),
        table.text("fallback", FALLBACKS),
        table.text("source"),
        runtimes,
        _figures(table.table("figures")) if "figures" in content else None,
        hashlib.sha256(text.encode()).hexdigest(),
    )
    if made.format not in runtimes:
        raise ProfileError(
            f"the format is {made.format}, and there are no rules for it",
            where=where,
            fix=f"add a table [{made.format}]",
        )
    return made


def _runtime(table: Table, form: str, integer: bool) -> Runtime:
    """Read who runs a format, and its rules; ``integer`` is whether the target computes in integers."""
    table.allow("runtime", "runtime_version", *COMPILERS[form], "rewrites", "partition", "rule")
    known = known_operators(form)
    rules: tuple[Rule, ...] = tuple(read_rule(rule, known) for rule in table.tables("rule"))
    if not any(rule.allow or rule.refuse for rule in rules):
        raise ProfileError(
            "no rule lists operators",
            where=table.where,
            fix="give one rule allow = [...], or refuse = [...] where all others run",
        )
    partition = table.table("partition")
    partition.allow("algorithm", "max_partitions", "min_nodes", "source", "evidence")
    return Runtime(
        table.text("runtime"),
        table.number("runtime_version"),
        Partitioning(
            partition.text("algorithm", tuple(ALGORITHMS)),
            partition.number("max_partitions"),
            partition.number("min_nodes") or 0,
            partition.text("source"),
            partition.text("evidence", tuple(EVIDENCE)),
        ),
        rules,
        frozenset() if any(rule.allow for rule in rules) else known,
        _rewrites(table, integer),
        _compiler(table, form),
    )


def _compiler(table: Table, form: str) -> Compiler | None:
    """Read who may be asked what becomes of a graph."""
    for key, machines in COMPILERS[form].items():
        if key in table.content:
            return Compiler(key, table.text(key, machines))
    return None


def _rewrites(table: Table, integer: bool) -> frozenset[str]:
    """Read what graphs are rewritten by, integer ones or float ones."""
    named, known = table.texts("rewrites"), REWRITES if integer else FLOAT_REWRITES
    for name in named:
        if name not in known:
            raise table.error(f"unknown rewrite {name!r}", f"known are: {', '.join(known)}")
    return frozenset(named)


def _figures(table: Table) -> Figures:
    """Read what the hardware can do."""
    table.allow(
        "operations_per_second",
        "bytes_per_second",
        "parameter_bytes",
        "streamed_bytes_per_second",
        "source",
        "evidence",
    )
    return Figures(
        table.number("operations_per_second"),
        table.number("bytes_per_second"),
        table.number("parameter_bytes"),
        table.number("streamed_bytes_per_second"),
        table.text("source"),
        table.text("evidence", tuple(EVIDENCE)),
    )
