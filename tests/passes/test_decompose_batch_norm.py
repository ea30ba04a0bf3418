"""decompose-batch-norm: a product and a sum of recipes, wherever no convolution takes the norm in."""

from pathlib import Path

import numpy as np
import pytest

from m4c.numerics import sqnr
from m4c.passes import for_integers
from m4c.passes.calibrate import Calibrate
from m4c.passes.decompose_batch_norm import DecomposeBatchNorm
from m4c.targets.emit_tflite import to_tflite
from tests.integer_graphs import graph, run
from tests.passes.rewriting import rewrite
from tests.targets.emit_tflite.graphs import run as in_litert

STEP = DecomposeBatchNorm()
STATISTICS = {
    "scale": np.array([0.5, 2, -1], np.float32),
    "shift": np.array([1, 0, -2], np.float32),
    "mean": np.array([0.1, -0.2, 0.3], np.float32),
    "variance": np.array([0.5, 2, 1e-4], np.float32),
}
NORMAL = "BatchNormalization<epsilon = 0.001>(x, scale, shift, mean, variance)"


@pytest.mark.parametrize("shape", ["2, 3", "2, 3, 4", "1, 3, 4, 5"])
def test_it_becomes_a_product_and_a_sum(shape: str) -> None:
    made = rewrite(STEP, f"g (float[{shape}] x) => (float[{shape}] y) {{ y = {NORMAL} }}", weights=STATISTICS)
    assert made.operators == ["Mul", "Add"]
    assert made.texts == ["BatchNormalization became Mul and Add"]
    assert set(made.model.graph.initializers) == {"y.gain", "y.shift"}


def test_computed_statistics_stay() -> None:
    text = f"g (float[2, 3] x, float[3] mean) => (float[2, 3] y) {{ y = {NORMAL} }}"
    weights = {name: held for name, held in STATISTICS.items() if name != "mean"}
    made = rewrite(STEP, text, weights=weights)
    assert made.operators == ["BatchNormalization"]
    (miss,) = made.misses
    assert miss.text == "BatchNormalization stays as it is: its statistics are computed"


def test_what_becomes_of_it_is_quantized_as_any_product_and_sum(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    text = f"g (float[4, 3, 5, 5] a) => (float[4, 3, 5, 5] y) {{ x = Relu(a) y = {NORMAL} }}"
    model, feeds = graph(text, **STATISTICS), {"a": rng.standard_normal((4, 3, 5, 5)).astype(np.float32)}
    (expected,) = run(model, feeds)
    made = for_integers("int8", "tflite", Calibrate([feeds], tmp_path)).run(model)[0]
    to_tflite(made, tmp_path / "m.tflite")
    assert sqnr(expected, in_litert(tmp_path / "m.tflite", feeds, xnnpack=False)[0]) > 30
