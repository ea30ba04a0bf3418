"""The one predicate: does a target run this operator call, and if not, why not. Every reason is kept."""

from collections.abc import Iterator
from dataclasses import dataclass

from m4c.errors import UsageError
from m4c.targets.profile import Target
from m4c.targets.rules import Rule, Runtime
from m4c.targets.view import Graph, Node

REWRITE = "rewrite it with operators that run there, or let it run on the CPU"
"""What mends an operator that a target does not have."""

DOUBTFUL = "recalled"
"""Evidence that refuses nothing by itself."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node does not run: one sentence with numbers, what mends it, and where the rule is written."""

    text: str
    fix: str
    source: str
    evidence: str
    refuses: str = "operator"
    """Whether it costs the ``operator`` or the whole ``model``."""

    def __str__(self) -> str:
        """Return the sentence and the fix."""
        return f"{self.text}; fix: {self.fix}"


@dataclass(frozen=True, slots=True)
class Legal:
    """The target runs it, as far as its profile tells."""

    doubts: tuple[Reason, ...] = ()
    """What is said of it and cannot be checked: it may be refused after all."""


@dataclass(frozen=True, slots=True)
class Illegal:
    """The target does not run it."""

    reasons: tuple[Reason, ...]
    """All of them; never none."""
    doubts: tuple[Reason, ...] = ()
    """What is said of it besides and cannot be checked: it may be taken after all."""


Verdict = Legal | Illegal


def runtime_of(target: Target, form: str) -> Runtime:
    """Return who runs graphs of a format on ``target``.

    Raises:
        UsageError: if the target takes no graphs of that format.
    """
    if form not in target.runtimes:
        taken = " and ".join(target.runtimes)
        raise UsageError(
            f"{target.name} takes {taken} graphs, this one is {form}",
            fix=f"export it first: m4c export … --target {target.name}, then report on the bundle",
        )
    return target.runtimes[form]


def judge(node: Node, target: Target) -> Verdict:
    """Return whether ``node`` runs on ``target``, or all the reasons it does not.

    Raises:
        UsageError: if the target takes no graphs of the node's format.
    """
    runtime = runtime_of(target, node.format)
    reasons: list[Reason] = []
    doubts: list[Reason] = []
    for reason in (*_listed(node, target, runtime), *_violations(node, runtime)):
        (doubts if reason.evidence == DOUBTFUL else reasons).append(reason)
    for rule in _current(runtime):
        if node.operator in rule.caution:
            text = f"{node.operator}: {rule.caution[node.operator]}"
            doubts.append(Reason(text, "try it in the target's own compiler", rule.source, rule.evidence))
    unique = tuple(dict.fromkeys(reasons))
    return Illegal(unique, tuple(doubts)) if unique else Legal(tuple(doubts))


def verdicts(graph: Graph, target: Target) -> tuple[Verdict, ...]:
    """Return the verdict on every node of a graph, in execution order."""
    return tuple(judge(node, target) for node in graph.nodes)


def refusal(judged: tuple[Verdict, ...]) -> Reason | None:
    """Return why a whole model is refused, if a node is reason for that."""
    for verdict in judged:
        for reason in verdict.reasons if isinstance(verdict, Illegal) else ():
            if reason.refuses == "model":
                return reason
    return None


def _current(runtime: Runtime) -> Iterator[Rule]:
    """Yield the rules that are true of the runtime's version."""
    for rule in runtime.rules:
        if runtime.version is None or rule.min_runtime <= runtime.version <= rule.max_runtime:
            yield rule


def _listed(node: Node, target: Target, runtime: Runtime) -> Iterator[Reason]:
    """Yield why the operator as such does not run."""
    operator = node.operator
    current = tuple(_current(runtime))
    refused = next((rule for rule in current if operator in rule.refuse), None)
    if refused is not None:
        text = f"{operator} is refused by {runtime.name}"
        yield Reason(text, REWRITE, refused.source, refused.evidence, refused.refuses)
    if refused is not None or operator in runtime.otherwise or any(operator in r.allow for r in current):
        return
    later = [rule for rule in runtime.rules if operator in rule.allow]
    if later:
        rule = min(later, key=lambda r: r.min_runtime)
        text = f"{operator} needs runtime {rule.min_runtime}, the profile has {runtime.version}"
        yield Reason(text, f"raise runtime_version to {rule.min_runtime}", rule.source, rule.evidence)
        return
    lists = next(rule for rule in current if rule.allow or rule.refuse)
    yield Reason(
        f"{operator} is not among the {len(runtime.operators)} operators of {target.name}",
        REWRITE,
        lists.source,
        lists.evidence,
    )


def _violations(node: Node, runtime: Runtime) -> Iterator[Reason]:
    """Yield which constraints do not hold."""
    for rule in _current(runtime):
        for constraint in rule.constraints(node.operator):
            text = constraint(node)
            if text is not None:
                yield Reason(
                    f"{node.operator}: {text}",
                    constraint.condition.fix,
                    rule.source,
                    rule.evidence,
                    rule.refuses,
                )
