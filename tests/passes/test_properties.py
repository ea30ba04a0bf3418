"""The named facts of a model."""

from m4c.passes.properties import typed
from tests.passes.rewriting import build


def test_typed_lists_every_value_without_dtype_or_shape() -> None:
    model = build("g (float[n] x) => (float[n] y) { a = Relu(x) b = Relu(a) y = Relu(b) }", {}, {})
    assert typed.problems(model) == []
    first, second, _ = model.graph
    first.outputs[0].shape = None
    second.outputs[0].type = None
    found = typed.problems(model)
    assert [problem.split(" of")[0] for problem in found] == ["a", "b"]
    assert all(problem.endswith("has no dtype or shape") for problem in found)
