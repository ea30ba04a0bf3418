"""calibrate: the ranges of every value, from samples run through ONNX Runtime."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from m4c import sweep
from m4c.errors import UsageError
from m4c.model import fingerprint
from m4c.observers import MinMax, Percentile
from m4c.passes.calibrate import Calibrate, observe
from m4c.pipeline import Pipeline
from m4c.quant import CALIBRATED, get_range
from tests.integer_graphs import graph

TEXT = """g (float[1,3,8] x, int64[1,3] ids) => (float[1,3,4] y) {
    e = Gather(table, ids)
    h = Add(x, e)
    m = MatMul(h, w)
    c = Relu(m)
    s = Mul(m, c)
    y = Add(s, bias)
}"""
Sample = Mapping[str, np.ndarray]


def model(rng: np.random.Generator) -> ir.Model:
    weights = {"table": (10, 8), "w": (8, 4), "bias": (4,)}
    return graph(TEXT, **{n: rng.normal(size=s).astype(np.float32) for n, s in weights.items()})


def sample(rng: np.random.Generator) -> Sample:
    return {"x": rng.normal(size=(1, 3, 8)).astype(np.float32), "ids": rng.integers(0, 10, (1, 3))}


def expected(m: ir.Model, samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """The same by numpy."""
    w = {n: v.const_value.numpy() for n, v in m.graph.initializers.items() if v.const_value is not None}
    values: dict[str, list[np.ndarray]] = {}
    for s in samples:
        e = w["table"][s["ids"]]
        h = s["x"] + e
        c = np.maximum(h @ w["w"], 0)
        found = {"x": s["x"], "e": e, "h": h, "m": h @ w["w"], "c": c, "s": h @ w["w"] * c}
        found["y"] = found["s"] + w["bias"]
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    seen = {n: (min(float(v.min()) for v in vs), max(float(v.max()) for v in vs)) for n, vs in values.items()}
    return seen | {n: (float(w[n].min()), float(w[n].max())) for n in ("table", "bias")}


def opened_segments(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the bytes of weights of each segment that is opened."""
    opened: list[int] = []
    session = sweep._session

    def noted(path: Path) -> onnxruntime.InferenceSession:
        data = path.with_suffix(".data")
        opened.append(data.stat().st_size if data.exists() else 0)
        return session(path)

    monkeypatch.setattr(sweep, "_session", noted)
    return opened


@pytest.mark.parametrize(("budget", "segments"), [(1, 6), (500, 2), (1 << 28, 1)])
def test_ranges_are_those_of_numpy_however_the_graph_is_cut(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, segments: int
) -> None:
    monkeypatch.setattr(sweep, "SEGMENT_BYTES", budget)
    opened = opened_segments(monkeypatch)
    m, samples, told = model(rng), [sample(rng) for _ in range(3)], list[int]()
    ranges = observe(m, iter(samples), workspace=tmp_path, progress=told.append)
    want = expected(m, samples)
    assert set(ranges) == set(want)
    for name, ends in want.items():
        np.testing.assert_allclose(ranges[name], ends, rtol=1e-5, err_msg=name)
    assert told == [1, 2, 3]
    assert len(opened) == segments
    assert list(tmp_path.iterdir()) == []


def test_one_sample_is_in_memory_at_a_time(rng: np.random.Generator, tmp_path: Path) -> None:
    alive = 0

    class Tracked(dict[str, np.ndarray]):
        def __init__(self, values: Sample) -> None:
            super().__init__(values)
            nonlocal alive
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def samples() -> Iterator[Sample]:
        for _ in range(4):
            assert alive <= 1
            yield Tracked(sample(rng))

    observe(model(rng), samples(), workspace=tmp_path)


def test_the_pass_attaches_ranges_that_survive_a_pipeline(rng: np.random.Generator, tmp_path: Path) -> None:
    m, samples = model(rng), [sample(rng)]
    before = fingerprint(m)
    result, (report,) = Pipeline((Calibrate(samples, tmp_path),)).run(m)
    assert report.changes[0].text == "9 ranges"
    assert CALIBRATED.problems(m)
    assert fingerprint(m) == before
    copy = result.clone()
    assert CALIBRATED.problems(copy) == []
    assert get_range(copy.graph.outputs[0]) == pytest.approx(expected(m, samples)["y"], rel=1e-5)
    assert get_range(copy.graph.initializers["table"]) is not None
    assert get_range(copy.graph.initializers["w"]) is None


def test_the_step_prints_its_observer_and_not_its_samples(tmp_path: Path) -> None:
    assert str(Calibrate([], tmp_path)) == "calibrate"
    assert str(Calibrate([], tmp_path, Percentile(99.9))) == "calibrate{observer=percentile-99.9}"
    assert Calibrate([], tmp_path) == Calibrate([{}], tmp_path / "other", MinMax())


def test_no_samples_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no calibration samples(.|\n)*fix:"):
        observe(model(rng), [], workspace=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.zeros(1)}, "it has the arrays ids, x, z"),
        ({"x": np.zeros((1, 3, 8))}, "x is float64, not float32"),
        ({"x": np.zeros((1, 3, 9), np.float32)}, r"x has shape \[1, 3, 9\], not \[1,3,8\]"),
        ({"x": np.zeros(3, np.float32)}, r"x has shape \[3\]"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(
    rng: np.random.Generator, tmp_path: Path, change: Sample, message: str
) -> None:
    samples = [sample(rng), {**sample(rng), **change}]
    with pytest.raises(UsageError, match=rf"{message}(.|\n)*sample 2(.|\n)*fix: the inputs are x FLOAT"):
        observe(model(rng), samples, workspace=tmp_path)


def test_values_that_are_not_numbers_name_the_tensor_and_the_module(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    m = model(rng)
    node = next(n for n in m.graph if n.outputs[0].name == "s")
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'blocks.1.gate', 'mul']"
    huge = {**sample(rng), "x": np.full((1, 3, 8), 3e37, np.float32)}
    with pytest.raises(UsageError, match=r"[sm] holds values that are not numbers(.|\n)*blocks\.1\.gate"):
        observe(m, [huge], workspace=tmp_path)


def test_a_sample_with_a_hole_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    broken = {**sample(rng), "x": np.full((1, 3, 8), np.nan, np.float32)}
    with pytest.raises(
        UsageError, match=r"x holds values that are not numbers(.|\n)*at:  the sample(.|\n)*fix:"
    ):
        observe(model(rng), [broken], workspace=tmp_path)
