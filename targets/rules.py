"""What a profile is made of: rules with their sources, how a runtime cuts graphs, what the hardware can do."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from m4c.targets import conditions
from m4c.targets.constraints import Constraint
from m4c.targets.tables import Table

EVIDENCE = {
    "measured": "seen in the runtime or the compiler itself",
    "source": "read in the runtime's source code",
    "documented": "stated by the vendor",
    "documented-copy": "a third party's copy of the vendor's page",
    "issue": "a maintainer's answer or a compiler's log in a public issue",
    "third-party": "measured or stated by someone else",
    "inferred": "follows from other rows",
    "recalled": "from memory of the vendor's page, not checked: raises a doubt, refuses nothing",
}
"""How good the evidence of a rule is."""

ALGORITHMS = {
    "epochs": "greedy epochs of ready nodes, the largest first up to a cap (TFLite delegates, Vela)",
    "runs": "runs of supported nodes in execution order (LiteRT's NPU plugins)",
    "prefix": "one sub-graph from the input to the first node that does not map (Edge TPU)",
    "waves": "Kahn waves over node units (ONNX Runtime)",
}
"""How runtimes cut a graph into partitions."""

REWRITES = {
    "tied": "a stored matrix that a table has too is stored again, turned around",
    "rms": "RMS norms divide by the length",
    "gather": "a row chosen at run time is a product with zeros and a one",
    "concat": "only zeros are joined to computed values, the rest is added",
    "gelu": "GELU is a product with a sigmoid",
    "attention": "products of computed matrices and softmax are products, sums and maxima of single values",
    "batch": "a convolution takes one sample",
    "mean": "a mean over channels has a multiple of 4 of them",
    "rows": "a mean over channels sees rows of one sample",
    "lengths": "vectors are divided by their lengths in a product",
    "linear": "a product by a stored matrix is a convolution of 1×1",
    "host": "what is computed from whole numbers is a file of its own, for the host",
}
"""What graphs may be rewritten by for a runtime that lacks operators, in the order in which it is done."""

FLOAT_REWRITES = {
    "tied": "a stored matrix that is turned around at run time is read as it is stored",
    "l2": "an L2 norm is a product with the reciprocal root of the sum of squares",
    "indices": "rows are looked up by a list of indices, not by a matrix of them",
    "outputs": "an output that a node reads is returned by a copy",
    "rank": "an input of more than four dimensions gets its inner shape in a file of its own, for the host",
}
"""The same for float graphs."""

Refuses = Literal["operator", "model"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Facts from one source: which operators there are, and what is asked of them."""

    source: str
    evidence: str
    allow: frozenset[str] = frozenset()
    """Operators that run, if no other rule objects."""
    refuse: frozenset[str] = frozenset()
    """Operators that do not run, whatever other rules allow; where none allows any, every other runs."""
    every: tuple[Constraint, ...] = ()
    """What is asked of every operator except some."""
    excepted: frozenset[str] = frozenset()
    limit: Mapping[str, tuple[Constraint, ...]] = field(default_factory=dict)
    """What is asked of single operators."""
    caution: Mapping[str, str] = field(default_factory=dict)
    """What is said of single operators and cannot be checked."""
    refuses: Refuses = "operator"
    """What one violation costs: the operator its place on the target, or the whole ``model``."""
    min_runtime: int = 0
    max_runtime: int = 1 << 30
    """The versions of the runtime that it is true of."""

    def constraints(self, operator: str) -> tuple[Constraint, ...]:
        """Return all that is asked of an operator."""
        general = () if operator in self.excepted else self.every
        return (*general, *self.limit.get(operator, ()))


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How a runtime cuts a graph."""

    algorithm: str
    max_partitions: int | None
    """So many of the largest are taken; None: all."""
    min_nodes: int
    """Smaller ones are not taken."""
    source: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Compiler:
    """Who may be asked what becomes of a graph."""

    name: str
    """A key of :data:`m4c.targets.profile.COMPILERS`."""
    machine: str
    """What it compiles for."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Who runs the graphs of one format."""

    name: str
    version: int | None
    partition: Partitioning
    rules: tuple[Rule, ...]
    otherwise: frozenset[str] = frozenset()
    """What runs where rules only refuse: every builtin operator."""
    rewrites: frozenset[str] = frozenset()
    """What graphs are rewritten by: names of :data:`REWRITES`, or of :data:`FLOAT_REWRITES` for a target in floats."""
    compiler: Compiler | None = None

    @property
    def operators(self) -> frozenset[str]:
        """Every operator that may run, for any version of the runtime."""
        refused = frozenset[str]().union(*(rule.refuse for rule in self.rules))
        return frozenset(self.otherwise).union(*(rule.allow for rule in self.rules)) - refused


@dataclass(frozen=True, slots=True)
class Figures:
    """What hardware can do."""

    operations_per_second: int | None
    """Peak; a multiplication and an addition are two."""
    bytes_per_second: int | None
    """To and from the memory that values are kept in."""
    parameter_bytes: int | None
    """Parameters beyond this do not fit where values are kept, and are streamed on every call."""
    streamed_bytes_per_second: int | None
    """What they are streamed with."""
    source: str
    evidence: str


KEYS = (
    "source",
    "evidence",
    "allow",
    "refuse",
    "every",
    "except",
    "limit",
    "caution",
    "refuses",
    "min_runtime",
    "max_runtime",
)


def read_rule(table: Table, known: Collection[str]) -> Rule:
    """Read a rule whose operators are all ``known``.

    Raises:
        ProfileError: if it has an unknown key, operator or constraint.
    """
    table.allow(*KEYS)
    limit, caution = table.table("limit"), table.table("caution")
    rule = Rule(
        table.text("source"),
        table.text("evidence", tuple(EVIDENCE)),
        frozenset(table.texts("allow")),
        frozenset(table.texts("refuse")),
        _constraints(table.texts("every"), table.where),
        frozenset(table.texts("except")),
        {o: _constraints(limit.texts(o), f"{limit.where}: {o}") for o in limit.content},
        {operator: caution.text(operator) for operator in caution.content},
        "model"
        if table.optional("refuses") and table.text("refuses", ("operator", "model")) == "model"
        else "operator",
        table.number("min_runtime") or 0,
        1 << 30 if table.number("max_runtime") is None else table.number("max_runtime") or 0,
    )
    for operator in (*rule.allow, *rule.refuse, *rule.excepted, *rule.limit, *rule.caution):
        if operator not in known:
            close = get_close_matches(operator, known, 5) or sorted(known)
            raise table.error(f"unknown operator {operator!r}", f"known are: {', '.join(close)}")
    return rule


def _constraints(texts: tuple[str, ...], where: str) -> tuple[Constraint, ...]:
    return tuple(conditions.parse(text, where) for text in texts)
