"""split-softmax: the same in floats, and far closer in int8 when there are many keys."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.model import fingerprint
from m4c.numerics import TOLERANCE, difference, sqnr
from m4c.passes.calibrate import Calibrate
from m4c.passes.quantize_static import QuantizeStatic
from m4c.passes.split_softmax import SplitSoftmax
from m4c.quant import get_range
from tests.integer_graphs import graph, run

Array = np.ndarray


def attention(keys: int, body: str = "p = Softmax<axis = -1>(s) y = MatMul(p, v)") -> ir.Model:
    return graph(f"g (float[2,8,{keys}] s, float[2,{keys},4] v) => (float[2,8,4] y) {{ {body} }}")


def drawn(rng: np.random.Generator, keys: int) -> dict[str, Array]:
    scores = rng.normal(0, 2, (2, 8, keys)).astype(np.float32)
    return {"s": scores, "v": rng.normal(1, 1, (2, keys, 4)).astype(np.float32)}


@pytest.mark.parametrize("limits", [(-78,), (-32, -96), (-96, -64, -32)])
def test_the_numbers_stay(rng: np.random.Generator, limits: tuple[int, ...]) -> None:
    model, feeds = attention(512), drawn(rng, 512)
    (expected,) = run(model, feeds)
    result = SplitSoftmax(limits=limits)(model)
    assert result.modified
    (actual,) = run(result.model, feeds)
    assert difference(expected, actual).max_relative <= TOLERANCE["float32"]
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("MatMul") == len(limits) + 1
    assert "Softmax" not in kinds
    assert all(o.shape is not None and o.dtype is not None for n in model.graph for o in n.outputs)


def int8(model: ir.Model, feeds: dict[str, Array], folder: Path) -> Array:
    calibrated = Calibrate([feeds], folder)(model).model
    (found,) = run(QuantizeStatic(strict=True)(calibrated).model, feeds)
    return found


def test_it_is_closer_in_int8(rng: np.random.Generator, tmp_path: Path) -> None:
    feeds = drawn(rng, 1024)
    (expected,) = run(attention(1024), feeds)
    plain = sqnr(expected, int8(attention(1024), feeds, tmp_path / "plain"))
    split = sqnr(expected, int8(SplitSoftmax()(attention(1024)).model, feeds, tmp_path / "split"))
    assert plain < 20
    assert split > plain + 10


def test_calibration_keeps_what_holds_by_construction(rng: np.random.Generator, tmp_path: Path) -> None:
    model = SplitSoftmax()(attention(512)).model
    Calibrate([drawn(rng, 512)], tmp_path)(model)
    ranges = [get_range(node.outputs[0]) for node in model.graph if node.op_type == "Exp"]
    assert ranges == [(0.0, pytest.approx(np.exp(-78 / 16))), (0.0, 1.0)]


MISSES = {
    "its 64 keys are fewer than 256": attention(64),
    "not along the last axis": attention(512, "p = Softmax<axis = 1>(s) y = MatMul(p, v)"),
    "not those of one product": attention(
        512, "p = Softmax(s) a = MatMul(p, v) b = MatMul(p, v) y = Add(a, b)"
    ),
    "what it weighs is stored": graph(
        "g (float[2,8,512] s) => (float[2,8,4] y) { p = Softmax(s) y = MatMul(p, v) }",
        v=np.ones((512, 4), np.float32),
    ),
    "not static": graph(
        "g (float[N,512] s, float[512,4] v) => (float[N,4] y) { p = Softmax(s) y = MatMul(p, v) }"
    ),
}


@pytest.mark.parametrize("reason", MISSES)
def test_misses_say_why(reason: str) -> None:
    model = MISSES[reason]
    before = fingerprint(model)
    result = SplitSoftmax()(model)
    assert not result.modified
    assert fingerprint(model) == before
    (miss,) = result.misses  # type: ignore[attr-defined]
    assert reason in miss.text


def test_it_prints_its_options() -> None:
    assert str(SplitSoftmax()) == "split-softmax"
    assert str(SplitSoftmax(64, (-32, -96))) == "split-softmax{keys=64,limits=-32+-96}"
