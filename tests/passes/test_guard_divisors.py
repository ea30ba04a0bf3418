"""guard-divisors: an integer artifact divides by a small number that rounds to 0 as by its smallest step."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.model import fingerprint
from m4c.passes.guard_divisors import GuardDivisors
from m4c.passes.quantize_static import QuantizeStatic
from m4c.pipeline import Pipeline
from m4c.quant import CALIBRATED, WIDE, from_range, get_range
from m4c.runners import TfliteRunner
from m4c.targets.emit_tflite import to_tflite
from tests.integer_graphs import calibrated, graph

DIVISION = "g (float[1, 8] x, float[1, 1] d) => (float[1, 8] y) { y = Div(x, d) }"
DIVISORS = (0.0, 50.0)
X = np.linspace(-1, 1, 8, dtype=np.float32)[None]


def ranged(text: str, divisors: tuple[float, float]) -> ir.Model:
    """Return a model whose values have ranges."""
    return calibrated(graph(text), x=(-4.0, 4.0), y=(-8.0, 8.0), d=divisors)


def divided(path: Path, pipeline: Pipeline, by: float) -> np.ndarray:
    """Return X / ``by`` of the artifact that ``pipeline`` makes."""
    model, _ = pipeline.run(ranged(DIVISION, DIVISORS))
    to_tflite(model, path)
    return TfliteRunner(path).run({"x": X, "d": np.full((1, 1), by, np.float32)})["y"]


def test_what_rounds_to_nothing_is_one_step(tmp_path: Path) -> None:
    plain = Pipeline((QuantizeStatic(),), given=(CALIBRATED,))
    assert np.abs(divided(tmp_path / "plain.tflite", plain, 0.05) - X / 0.2).max() > 1
    guarded = Pipeline((GuardDivisors(), QuantizeStatic()), given=(CALIBRATED,))
    step = from_range(*DIVISORS).scale
    for by in (0.0, 0.05, 0.7 * step):
        made = divided(tmp_path / "guarded.tflite", guarded, by)
        np.testing.assert_allclose(made, X / step, atol=0.2)


def test_small_quotients_are_small(tmp_path: Path) -> None:
    """LiteRT's own kernel for int8 makes ±8 of some of these."""
    guarded = Pipeline((GuardDivisors(), QuantizeStatic()), given=(CALIBRATED,))
    for by in (1.0, 5.0, 20.0, 50.0):
        made = divided(tmp_path / "guarded.tflite", guarded, by)
        np.testing.assert_allclose(made, X / by, atol=0.15)


def changed(text: str, bits: int = 8, divisors: tuple[float, float] = DIVISORS) -> ir.Model | None:
    """Return the model after the pass, None if nothing changed."""
    model = ranged(text, divisors)
    before = fingerprint(model)
    result = GuardDivisors(bits).call(model)
    assert result.modified == (fingerprint(model) != before)
    return model if result.modified else None


def test_all_who_divide_by_a_value_share_its_guard() -> None:
    text = (
        "g (float[1, 8] x, float[1, 1] d) => (float[1, 8] y, float[1, 8] z) { y = Div(x, d) z = Div(y, d) }"
    )
    model = changed(text, WIDE)
    assert model is not None
    (guard,) = [node for node in model.graph if node.op_type == "Max"]
    assert [node.inputs[1] for node in model.graph if node.op_type == "Div"] == [guard.outputs[0]] * 2
    assert get_range(guard.outputs[0]) == DIVISORS
    step = guard.inputs[1]
    assert step is not None
    assert step.const_value is not None
    assert step.const_value.numpy() == np.float32(from_range(*DIVISORS, WIDE).scale)


def test_a_divisor_that_was_negative_is_left() -> None:
    assert changed(DIVISION, divisors=(-1.0, 50.0)) is None


def test_a_stored_divisor_is_left() -> None:
    model = graph("g (float[1, 8] x) => (float[1, 8] y) { y = Div(x, w) }", w=np.ones(8, np.float32))
    assert not GuardDivisors().call(calibrated(model)).modified
