"""Pattern rewriting with notes: what each rule changed, and why it left a match alone."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchingTracer, RewriteRule, RewriteRuleClassBase, RewriteRuleSet

from m4c.model import module_path
from m4c.pipeline import Note, Result

RULE_NAME = "pkg.onnxscript.rewriter.rule_name"


class _Misses(MatchingTracer):
    """Keeps every failed match with a reason; the base class keeps only the best one of each rule."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Note] = []

    def log(self, rule: RewriteRule, container: Any, node: ir.Node, match_result: Any, status: Any) -> None:
        """Note the reason of a match that a rule's ``check`` refused."""
        if not match_result and match_result.reason and status.name == "CONDITION_FAILED":
            self.notes.append(Note(module_path(node), match_result.reason))


def as_rule(pattern: RewriteRuleClassBase) -> RewriteRule:
    """Return the rewrite rule of a class, which leaves it to ``check`` whether inner values are used elsewhere."""
    return RewriteRule(
        pattern.pattern,
        pattern.rewrite,
        pattern.check,
        name=type(pattern).__name__.strip("_"),
        remove_nodes=False,
    )


def apply(model: ir.Model, patterns: Sequence[RewriteRuleClassBase]) -> Result:
    """Apply ``patterns`` to ``model`` until none matches; return what changed and what was left alone, with reasons."""
    rules = RewriteRuleSet([as_rule(pattern) for pattern in patterns])
    total = 0
    while count := rules.apply_to_model(model):
        total += count
        ir.passes.common.RemoveUnusedNodesPass()(model)
    changes = []
    for node in model.graph.all_nodes():
        rule = node.metadata_props.pop(RULE_NAME, None)
        if rule is not None:
            changes.append(Note(module_path(node), rule))
    misses = _Misses()
    rules.apply_to_model(model, tracer=misses)
    return Result(model, modified=total > 0, changes=tuple(changes), misses=tuple(misses.notes))


def used_once(value: ir.Value) -> bool:
    """Return whether one node reads ``value`` and the graph does not return it."""
    return len(value.uses()) == 1 and not value.is_graph_output()
