"""Graphs for the tests of passes, and what must hold of every rewrite, whatever it does."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from m4c.model import fingerprint
from m4c.numerics import TOLERANCE, difference
from m4c.passes.properties import typed
from m4c.pipeline import Note, Pass, Pipeline
from m4c.weights import lazy
from tests.integer_graphs import run

Array = np.ndarray
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Rewritten:
    """A model after a pass, and what the pass said."""

    model: ir.Model
    changes: tuple[Note, ...]
    misses: tuple[Note, ...]

    @property
    def operators(self) -> list[str]:
        """The operator types, in the order of the graph."""
        return [node.op_type for node in self.model.graph]

    @property
    def texts(self) -> list[str]:
        """What changed, in words."""
        return [note.text for note in self.changes]


def build(text: str, weights: Arrays, constants: Arrays, *, readable: bool = True) -> ir.Model:
    """Return the model of ``name (inputs) => (outputs) { … }`` with lazy weights and constants in memory.

    Weights that are not ``readable`` raise when they are read.
    """
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    for name, values in {**weights, **constants}.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    model = ir.from_proto(inferred)
    for name, values in weights.items():
        model.graph.initializers[name].const_value = _lazy(name, values, readable)
    return model


def _lazy(name: str, values: Array, readable: bool) -> ir.LazyTensor:
    def read() -> Array:
        assert readable, f"{name} was read"
        return values

    return lazy(name, ir.DataType.from_numpy(values.dtype), values.shape, read)


def rewrite(
    step: Pass,
    text: str,
    *,
    weights: Arrays | None = None,
    constants: Arrays | None = None,
    sizes: Mapping[str, int] | None = None,
    feeds: Arrays | None = None,
    exact: bool = False,
) -> Rewritten:
    """Run ``step`` on a graph and check what holds of every pass.

    The input is untouched, the interface stays, no weight is read, a second run changes nothing, and ONNX Runtime computes the
    same from both: on ``feeds``, else on random numbers, symbolic dimensions having ``sizes``.
    """
    weights, constants = weights or {}, constants or {}
    model = build(text, weights, constants)
    before = fingerprint(model)
    after, reports = Pipeline((step,), given=(typed,)).run(model)
    assert fingerprint(model) == before, "the input was changed"
    assert _interface(after) == _interface(model)
    assert not typed.problems(after)
    again, second = Pipeline((step,), given=(typed,)).run(after)
    assert fingerprint(again) == fingerprint(after), "the second run changed it"
    assert not second[0].changes
    assert bool(reports[0].changes) == (fingerprint(after) != before)
    Pipeline((step,), given=(typed,)).run(build(text, weights, constants, readable=False))
    inputs = feeds or random_feeds(model, sizes or {})
    for expected, actual in zip(run(model, inputs), run(after, inputs), strict=True):
        assert expected.dtype == actual.dtype
        if exact or expected.dtype.kind != "f":
            np.testing.assert_array_equal(actual, expected, strict=True)
        else:
            assert difference(expected, actual).max_relative <= TOLERANCE["float32"] / 10
    return Rewritten(after, reports[0].changes, reports[0].misses)


def _interface(model: ir.Model) -> list[str]:
    return [f"{v.name} {v.dtype} {v.shape}" for v in (*model.graph.inputs, *model.graph.outputs)]


def random_feeds(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return standard normal numbers for each float input, and small whole ones for the others."""
    rng = np.random.default_rng(7)
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape]
        kind = value.dtype.numpy()
        made = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 2, shape)
        feeds[str(value.name)] = made.astype(kind)
    return feeds
