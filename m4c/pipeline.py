"""Passes and pipelines: one layer above ``onnx_ir.passes``.

A pass is a frozen dataclass whose fields are its options. It states the properties it needs, gives and breaks; a pipeline
walks its steps with the properties that hold and refuses an impossible order before anything runs. A pipeline prints as
the text that the manifest keeps: ``simplify | canonicalize | quantize-static{bits=8}``.
"""

import logging
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import ClassVar

import onnx_ir as ir

from m4c.errors import Bug, M4CError, PassError, PipelineError, as_usage
from m4c.model import fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Property:
    """Something that is or is not true of a model; ``problems`` lists what stands against it."""

    name: str
    problems: Callable[[ir.Model], list[str]] = field(compare=False, repr=False)

    def __str__(self) -> str:
        """Return the name."""
        return self.name


@dataclass(frozen=True, slots=True)
class Note:
    """What a pass did at a place, or why it did nothing there."""

    where: str
    text: str


@dataclass
class Result(ir.passes.PassResult):
    """A pass result that says what changed, and what looked right but was left alone."""

    changes: tuple[Note, ...] = ()
    misses: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """One step of the compiler: ``call`` rewrites the model it is given and returns a :class:`Result`."""

    name: ClassVar[str]
    needs: ClassVar[tuple[Property, ...]] = ()
    gives: ClassVar[tuple[Property, ...]] = ()
    breaks: ClassVar[tuple[Property, ...]] = ()

    def requires(self, model: ir.Model) -> None:
        """Raise if a property that the pass needs does not hold."""
        for need in self.needs:
            for problem in need.problems(model):
                raise ir.passes.PreconditionError(f"{self.name} needs {need}: {problem}")

    def ensures(self, model: ir.Model) -> None:
        """Raise if a property that the pass promises does not hold of its result."""
        for promise in self.gives:
            for problem in promise.problems(model):
                raise ir.passes.PostconditionError(f"{self.name} promises {promise}: {problem}")

    def __str__(self) -> str:
        """Return the name with the options that differ from their defaults, as the manifest keeps it."""
        options = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)
            if f.repr and (f.default is MISSING or getattr(self, f.name) != f.default)
        ]
        return self.name + (f"{{{','.join(options)}}}" if options else "")


@dataclass(frozen=True, slots=True)
class Report:
    """What one step of a pipeline did."""

    step: str
    changes: tuple[Note, ...]
    misses: tuple[Note, ...]


@dataclass(frozen=True)
class Pipeline:
    """An ordered, checked tuple of passes; ``given`` are the properties that the input is known to have."""

    steps: tuple[Pass, ...]
    given: tuple[Property, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an order in which a pass would need what does not hold at its place."""
        holds = frozenset(self.given)
        for index, step in enumerate(self.steps):
            for need in step.needs:
                if need not in holds:
                    giver = next((s.name for s in self.steps if need in s.gives), None)
                    raise PipelineError(
                        f"{step.name} needs {need}, which does not hold at its place",
                        where=" | ".join(str(s) for s in self.steps[: index + 1]),
                        fix=f"put {giver} before it" if giver else f"no step gives {need}: add one that does",
                    )
            holds = _after(step, holds)

    def __str__(self) -> str:
        """Return the pipeline as text."""
        return " | ".join(str(step) for step in self.steps)

    def split(self, kind: type[Pass]) -> tuple["Pipeline", "Pipeline"]:
        """Return the steps before the first one of ``kind``, and that with the others; without one, these are none."""
        place = next((n for n, step in enumerate(self.steps) if isinstance(step, kind)), len(self.steps))
        holds = frozenset(self.given)
        for step in self.steps[:place]:
            holds = _after(step, holds)
        return Pipeline(self.steps[:place], self.given), Pipeline(self.steps[place:], tuple(holds))

    def __or__(self, step: Pass) -> "Pipeline":
        """Return this pipeline with one step more."""
        return Pipeline((*self.steps, step), self.given)

    def run(self, model: ir.Model) -> tuple[ir.Model, tuple[Report, ...]]:
        """Run every step on one clone of ``model``; the model itself is untouched.

        Raises:
            PassError: if a step's promise does not hold, or it fails with a foreign exception.
            Bug: if a step changed the model and did not say so.
        """
        current, reports = model.clone(), []
        current.meta.update(model.meta)
        for step in self.steps:
            before = fingerprint(current)
            result = _call(step, current)
            current = result.model
            changed = fingerprint(current) != before
            if changed and not result.modified:
                raise Bug(f"{step.name} changed the model without saying so", where=str(self))
            changes = result.changes if isinstance(result, Result) else ()
            misses = result.misses if isinstance(result, Result) else ()
            log.debug("%s: %d changes, %d misses", step, len(changes), len(misses))
            reports.append(Report(str(step), changes, misses))
        return current, tuple(reports)


def _after(step: Pass, holds: frozenset[Property]) -> frozenset[Property]:
    """Return the properties that hold behind ``step``, where ``holds`` do before it."""
    return (holds - set(step.breaks)) | set(step.gives)


def _call(step: Pass, model: ir.Model) -> ir.passes.PassResult:
    """Call one pass; a foreign exception becomes a :class:`PassError` that names the step, but for a full disk."""
    try:
        return step(model)
    except M4CError:
        raise
    except (ir.passes.PassError, ir.passes.InvariantError) as error:
        raise PassError(str(error), where=step.name, fix="this is a bug of m4c; please report it") from error
    except Exception as error:
        raise as_usage(error) or PassError(
            f"{step.name} failed: {type(error).__name__}: {error}",
            where=step.name,
            fix="this is a bug of m4c; please report it",
        ) from error
