"""What the answers of real compilers have in common: who is asked, and a placement as it was told instead of foretold."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from m4c.errors import UsageError
from m4c.operator_reports.placement import Placement
from m4c.targets.legality import REWRITE, Illegal, Reason, Verdict
from m4c.targets.partition import Cut, bordered
from m4c.targets.profile import Target
from m4c.targets.rules import Compiler

TABLES = "leave out --evidence: tables decide then"
"""What to do where a compiler does not answer."""


def compiler_of(target: Target, form: str) -> Compiler:
    """Return the compiler of ``target`` for graphs of a format.

    Raises:
        UsageError: if it has none.
    """
    compiler = target.runtimes[form].compiler if form in target.runtimes else None
    if compiler is None:
        raise UsageError(f"there is no compiler to ask for {target.name}", fix=TABLES)
    return compiler


def refused(foretold: Verdict, operator: str, said: Sequence[str], source: str) -> Illegal:
    """Return a compiler's own reasons, with the fix that the profile has for such a node."""
    known = foretold.reasons if isinstance(foretold, Illegal) else ()
    fix = known[0].fix if known else REWRITE
    return Illegal(tuple(Reason(f"{operator}: {text}", fix, source, "measured") for text in said))


def told(foretold: Placement, verdicts: tuple[Verdict, ...], groups: Iterable[tuple[int, ...]]) -> Placement:
    """Return a placement with the verdicts of a compiler, and the nodes of each of its partitions."""
    partitions = tuple(bordered(foretold.graph, group) for group in groups)
    return replace(
        foretold, verdicts=verdicts, cut=Cut(partitions, partitions), refused=None, evidence="compiled"
    )
