"""decompose-batch-norm: a product and a sum of recipes, wherever no convolution takes the norm in."""

import numpy as np
import pytest

from m4c.passes.decompose_batch_norm import DecomposeBatchNorm
from tests.passes.rewriting import rewrite

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
    assert set(made.model.graph.initializers) == {"y.scale", "y.offset"}


def test_computed_statistics_stay() -> None:
    text = f"g (float[2, 3] x, float[3] mean) => (float[2, 3] y) {{ y = {NORMAL} }}"
    weights = {name: held for name, held in STATISTICS.items() if name != "mean"}
    made = rewrite(STEP, text, weights=weights)
    assert made.operators == ["BatchNormalization"]
    (miss,) = made.misses
    assert miss.text == "BatchNormalization stays as it is: its statistics are computed"
