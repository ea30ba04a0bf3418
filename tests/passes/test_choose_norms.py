"""offer-norms and choose-norms: of two forms of a norm, each where eight bits serve it better."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m4c.model import fingerprint
from m4c.numerics import TOLERANCE, difference, sqnr
from m4c.passes.calibrate import Calibrate
from m4c.passes.choose_norms import ChooseNorms
from m4c.passes.offer_norms import OfferNorms
from m4c.passes.quantize_static import QuantizeStatic
from m4c.pipeline import Pipeline
from m4c.runners import open_runner
from m4c.targets.emit_tflite import SIGNATURE, to_tflite
from tests.integer_graphs import graph, run

Array = np.ndarray
WIDTH = 256


def norm(body: str = "y = LpNormalization<axis = -1>(d) z = Mul(y, g)") -> ir.Model:
    gain = np.full(WIDTH, 2, np.float32)
    return graph(f"g (float[1,16,{WIDTH}] d) => (float[1,16,{WIDTH}] z) {{ {body} }}", g=gain)


def tokens(rng: np.random.Generator, longest: float) -> dict[str, Array]:
    """Return tokens whose lengths go from 1 to ``longest`` times the shortest."""
    lengths = np.geomspace(1, longest, 16)[None, :, None]
    return {"d": (rng.normal(size=(1, 16, WIDTH)) * lengths).astype(np.float32)}


def chosen(feeds: dict[str, Array], folder: Path) -> tuple[ir.Model, list[str]]:
    made, reports = Pipeline((OfferNorms(), Calibrate([feeds], folder), ChooseNorms())).run(norm())
    return made, [note.text for note in (*reports[-1].changes, *reports[-1].misses)]


def in_litert(model: ir.Model, feeds: dict[str, Array], folder: Path) -> Array:
    folder.mkdir()
    to_tflite({SIGNATURE: QuantizeStatic(strict=True)(model).model}, folder / "norm.tflite")
    return open_runner(folder / "norm.tflite").run(feeds)["z"]


def test_what_is_offered_is_the_same_in_floats(rng: np.random.Generator) -> None:
    model = norm()
    result = OfferNorms()(model)
    assert result.modified
    assert not OfferNorms()(model).modified
    offered = next(v for n in model.graph for v in n.outputs if v.metadata_props)
    model.graph.outputs.append(offered)
    model.graph.outputs.append(next(n.outputs[0] for n in model.graph if n.op_type == "LpNormalization"))
    _, actual, expected = run(model, tokens(rng, 10))
    assert difference(expected, actual).max_relative <= TOLERANCE["float32"]


def test_tokens_of_one_length_are_multiplied(rng: np.random.Generator, tmp_path: Path) -> None:
    feeds = tokens(rng, 2)
    made, texts = chosen(feeds, tmp_path / "a")
    assert [n.op_type for n in made.graph] == ["Mul", "ReduceSum", "Sqrt", "Reciprocal", "Mul", "Mul"]
    assert made.graph.node(4).outputs[0].name == "y"
    assert "by L2_NORMALIZATION" in texts[0]
    (expected,) = run(norm(), feeds)
    plain = in_litert(Calibrate([feeds], tmp_path / "b")(norm()).model, feeds, tmp_path / "plain")
    product = in_litert(made, feeds, tmp_path / "product")
    assert sqnr(expected, product) > sqnr(expected, plain) + 6


@pytest.mark.parametrize("longest", [15, 200])
def test_tokens_of_many_lengths_keep_the_kernel(
    rng: np.random.Generator, tmp_path: Path, longest: float
) -> None:
    made, _ = chosen(tokens(rng, longest), tmp_path)
    assert [n.op_type for n in made.graph] == ["LpNormalization", "Mul"]
    assert fingerprint(made) == fingerprint(norm())


def test_an_unseen_token_of_zeros_stays_zero(rng: np.random.Generator, tmp_path: Path) -> None:
    made, _ = chosen(tokens(rng, 2), tmp_path / "a")
    assert not in_litert(made, {"d": np.zeros((1, 16, WIDTH), np.float32)}, tmp_path / "zeros").any()


def test_a_token_of_zeros_among_the_samples_keeps_the_kernel(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    feeds = tokens(rng, 2)
    feeds["d"][:, 3] = 0
    made, _ = chosen(feeds, tmp_path)
    assert made.graph.node(0).op_type == "LpNormalization"


def test_an_output_of_the_graph_stays_one(rng: np.random.Generator, tmp_path: Path) -> None:
    feeds = tokens(rng, 2)
    model = norm("y = Mul(d, g) z = LpNormalization(y)")
    (expected,) = run(model, feeds)
    made, _ = Pipeline((OfferNorms(), Calibrate([feeds], tmp_path), ChooseNorms())).run(model)
    assert [v.name for v in made.graph.outputs] == ["z"]
    assert not any(node.op_type == "LpNormalization" for node in made.graph)
    assert difference(expected, run(made, feeds)[0]).max_relative <= TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (norm("y = LpNormalization<axis = 1>(d) z = Mul(y, g)"), "no length along the last axis"),
        (norm("y = LpNormalization<p = 1>(d) z = Mul(y, g)"), "no length along the last axis"),
        (graph("g (float[N,8] d) => (float[N,8] z) { y = LpNormalization(d) z = Neg(y) }"), "not static"),
    ],
)
def test_others_are_left_alone(model: ir.Model, reason: str) -> None:
    before = fingerprint(model)
    _, (report,) = Pipeline((OfferNorms(),)).run(model)
    assert not report.changes
    assert reason in report.misses[0].text
    assert fingerprint(OfferNorms()(model).model) == before
