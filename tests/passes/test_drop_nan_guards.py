"""drop-nan-guards: a choice by whether a value is a number is that value, in integers."""

import numpy as np

from m4c.passes.drop_nan_guards import DropNanGuards
from tests.passes.rewriting import rewrite

STEP = DropNanGuards()
GUARD = "s = Softmax(x) n = IsNaN(s) g = Where(n, zero, s)"
ZERO = {"zero": np.array(0, np.float32)}


def test_a_guard_behind_a_softmax_goes() -> None:
    made = rewrite(STEP, f"g (float[2, 4] x) => (float[2, 4] y) {{ {GUARD} y = Relu(g) }}", constants=ZERO)
    assert made.operators == ["Softmax", "Relu"]
    assert made.texts == ["s is a number"]


def test_other_choices_stay() -> None:
    text = f"g (float[2, 4] x, bool[2, 4] n) => (float[2, 4] y) {{ {GUARD.replace('n = IsNaN(s) ', '')} y = Relu(g) }}"
    assert rewrite(STEP, text, constants=ZERO).operators == ["Softmax", "Where", "Relu"]
    text = "g (float[2, 4] x, float[2, 4] z) => (float[2, 4] y) { n = IsNaN(z) g = Where(n, zero, x) y = Relu(g) }"
    assert rewrite(STEP, text, constants=ZERO).operators == ["IsNaN", "Where", "Relu"]


def test_an_output_of_the_graph_stays() -> None:
    text = f"g (float[2, 4] x) => (float[2, 4] g) {{ {GUARD} }}"
    made = rewrite(STEP, text, constants=ZERO)
    assert made.operators == ["Softmax", "IsNaN", "Where"]
    assert [miss.text for miss in made.misses] == ["g is an output of the graph"]
