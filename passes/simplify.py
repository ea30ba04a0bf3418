"""Drop what is not needed: constants folded, dead nodes and duplicates removed, shapes inferred.

The work is onnxscript's and onnx_ir's: the passes of ``onnxscript.optimizer.optimize_ir``, in its order and with its rules but
one. They would read every weight, so weights are hidden from them while they run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules

from m4c.model import fingerprint
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Property, Result
from m4c.quiet import quiet
from m4c.weights import hidden

DEDUPLICATION = "onnx_ir.passes.common.initializer_deduplication"
"""Warns of every weight that has no value: that they are hidden is the purpose."""

RULES: Sequence[RewriteRule] = (
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.dropout_zero_rule,
    rules.dropout_inference_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.min_min_rule,
    rules.max_max_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.successive_clip_relu_rule,
    rules.successive_relu_clip_rule,
    rules.successive_relu_rule,
    rules.successive_clip_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.flatten_to_reshape_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.no_op_dynamic_scatter_nd_rule,
    rules.no_op_static_scatter_nd_rule,
    rules.normalize_pad_format_conv_rule,
    rules.normalize_pad_format_conv_integer_rule,
    rules.fuse_pad_into_conv_rule,
    rules.fuse_pad_into_conv_integer_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_conv_transpose_rule,
    rules.remove_optional_bias_from_qlinear_conv_rule,
    rules.remove_optional_bias_from_gemm_rule,
)
"""The optimizer's own rules in its order, without ``slice_split_rule``.

That one, of two results, walks the whole graph again and again: it would take two thirds of LLaMA-7B's passes. And the
``Split`` that it makes of two ``Slice`` would be undone by :mod:`m4c.passes.canonicalize`.
"""


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold constants, remove dead and duplicate nodes, infer every shape; weights are left as they are.

    Before: ``Constant(2) · x``, ``Shape(x) → Gather → Concat → Reshape``. After: ``Reshape(x, [1, 17, 64])``.
    """

    name: ClassVar[str] = "simplify"
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Run the optimizer with the weights hidden."""
        before, count = fingerprint(model), len(model.graph)
        with hidden(model), quiet(DEDUPLICATION):
            _optimizer()(model)
        modified = fingerprint(model) != before
        notes = (Note("graph", f"{count} nodes became {len(model.graph)}"),) if modified else ()
        return Result(model, modified=modified, changes=notes)


class _FoldConstants(ir.passes.InPlacePass):
    """Folding as the optimizer does it, with the inference of shapes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold once over the graph."""
        with np.errstate(all="ignore"):  # a logarithm of 0 is -inf here as it is where the model runs
            return ir.passes.PassResult(model, bool(fold_constants_ir(model, onnx_shape_inference=True)))


def _optimizer() -> ir.passes.Sequential:
    """Return the passes of ``optimize_ir``."""
    repeated: list[ir.passes.PassBase] = [
        _FoldConstants(),
        RewritePass(RULES),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
    ]
    return ir.passes.Sequential(
        common.InlinePass(),
        ir.passes.PassManager(repeated, steps=2, early_stop=True),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
