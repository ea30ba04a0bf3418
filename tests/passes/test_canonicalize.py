"""canonicalize as a whole: rounds, domains, where changes are noted. The forms have tests of their own."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from m4c.errors import Bug
from m4c.passes import canonicalize
from m4c.passes.canonicalize import FORMS, Canonicalize
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pipeline
from tests.passes.rewriting import build, rewrite


def test_forms_that_need_each_other_settle() -> None:
    text = (
        "g (float[3, 4] x, float[4] z) => (float[1, 12] y) {"
        " r = Reciprocal(z) e = Expand(r, s) a = Mul(x, e) b = Identity(a)"
        " c = Reshape(b, s) y = Flatten<axis = 0>(c) }"
    )
    made = rewrite(Canonicalize(), text, constants={"s": np.array([3, 4], np.int64)})
    assert made.operators == ["Div", "Mul", "Reshape"]


def test_operators_of_other_domains_are_left_alone() -> None:
    model = build("g (float[4] x) => (float[4] y) { a = Relu(x) y = Relu(a) }", {}, {})
    for node in model.graph:
        node.op_type, node.domain = "Identity", "somewhere.else"
    result = Canonicalize()(model)
    assert not result.modified
    assert len(model.graph) == 2


def test_changes_say_where() -> None:
    model = build("g (float[4] x) => (float[4] y) { y = Neg(x) }", {}, {})
    (node,) = model.graph
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'source.blocks.1', 'neg_2']"
    _, reports = Pipeline((Canonicalize(),), given=(typed,)).run(model)
    assert reports[0].changes == (Note("blocks.1", "Neg became Mul"),)


def test_forms_without_end_are_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(node: ir.Node) -> str:
        return f"{node.op_type} turned round"

    monkeypatch.setitem(canonicalize.FORMS, "Relu", forever)
    model = build("g (float[4] x) => (float[4] y) { y = Relu(x) }", {}, {})
    with pytest.raises(Bug, match="still changing after 8 rounds: Relu turned round"):
        Canonicalize()(model)


def test_it_needs_types() -> None:
    model = build("g (float[4] x) => (float[4] y) { a = Neg(x) y = Relu(a) }", {}, {})
    model.graph[0].outputs[0].shape = None
    with pytest.raises(ir.passes.PreconditionError, match="canonicalize needs typed: a of"):
        Canonicalize()(model)


def test_every_form_is_one_of_onnx() -> None:
    for op_type in FORMS:
        assert onnx.defs.has(op_type), op_type
