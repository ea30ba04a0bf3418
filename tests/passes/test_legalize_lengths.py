"""legalize-lengths: every norm is a product, whatever the lengths, and nothing of the other form is left."""

from pathlib import Path

import numpy as np

from m4c.numerics import TOLERANCE, difference, sqnr
from m4c.passes.calibrate import Calibrate
from m4c.passes.legalize_lengths import LegalizeLengths
from m4c.passes.offer_norms import OfferNorms
from m4c.passes.quantize_static import QuantizeStatic
from m4c.pipeline import Pipeline
from m4c.runners import open_runner
from m4c.targets.emit_tflite import SIGNATURE, to_tflite
from tests.integer_graphs import graph, run
from tests.targets.emit_tflite.graphs import operators

Array = np.ndarray
TEXT = "g (float[1,16,64] d) => (float[1,16,64] y) { y = LpNormalization<axis = -1>(d) }"


def tokens(rng: np.random.Generator, longest: float) -> dict[str, Array]:
    """Return tokens whose lengths go from 1 to ``longest`` times the shortest."""
    lengths = np.geomspace(1, longest, 16)[None, :, None]
    return {"d": (rng.normal(size=(1, 16, 64)) * lengths).astype(np.float32)}


def test_it_needs_no_ranges_and_changes_no_number(rng: np.random.Generator) -> None:
    model, feeds = graph(TEXT), tokens(rng, 40)
    (expected,) = run(model, feeds)
    made, reports = Pipeline((OfferNorms(), LegalizeLengths())).run(model)
    assert [node.op_type for node in made.graph] == ["Mul", "ReduceSum", "Sqrt", "Reciprocal", "Mul"]
    assert [value.name for value in made.graph.outputs] == ["y"]
    assert "reciprocal" in reports[-1].changes[0].text
    assert difference(expected, run(made, feeds)[0]).max_relative <= TOLERANCE["float32"]
    assert not LegalizeLengths()(made).modified


def test_nothing_offered_nothing_done() -> None:
    assert not LegalizeLengths()(graph(TEXT)).modified


def test_in_integers_there_is_no_kernel_and_the_numbers_follow(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    feeds = tokens(rng, 2)
    (expected,) = run(graph(TEXT), feeds)
    steps = (OfferNorms(), Calibrate([feeds], tmp_path), LegalizeLengths(), QuantizeStatic(strict=True))
    made, _ = Pipeline(steps).run(graph(TEXT))
    to_tflite({SIGNATURE: made}, tmp_path / "norm.tflite")
    assert operators(tmp_path / "norm.tflite") == ["MUL", "SUM", "RSQRT", "MUL"]
    assert sqnr(expected, open_runner(tmp_path / "norm.tflite").run(feeds)["y"]) > 30
