"""merge-norm-axes: a norm over several axes is one over a single axis."""

import numpy as np

from m4c.passes.merge_norm_axes import MergeNormAxes
from tests.passes.rewriting import rewrite

STEP = MergeNormAxes()
HELD = {name: np.linspace(0.5, 2, 20, dtype=np.float32).reshape(4, 5) for name in ("gamma", "beta")}


def test_two_axes_become_one() -> None:
    text = "g (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) { y = LayerNormalization<axis = -2>(x, gamma, beta) }"
    made = rewrite(STEP, text, weights=HELD)
    assert made.operators == ["Reshape", "LayerNormalization", "Reshape"]
    assert made.texts == ["LayerNormalization over 2 axes as over one"]


def test_one_axis_and_computed_scales_stay() -> None:
    held = {name: values[0] for name, values in HELD.items()}
    text = "g (float[2, 5] x) => (float[2, 5] y) { y = LayerNormalization(x, gamma, beta) }"
    assert rewrite(STEP, text, weights=held).operators == ["LayerNormalization"]
    text = "g (float[4, 5] x, float[4, 5] gamma) => (float[4, 5] y) { y = LayerNormalization<axis = 0>(x, gamma) }"
    made = rewrite(STEP, text)
    assert made.operators == ["LayerNormalization"]
    assert [miss.text for miss in made.misses] == ["its scale or bias is computed, or its mean is used"]
