"""What follows from a request for one graph."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from m4c.errors import UsageError
from m4c.models import build
from m4c.models.graph import Graph, GraphModule, Port
from m4c.plan import Plan, fall_back, plan
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.skeleton import skeleton
from m4c.source import OnnxSource, Source, TorchSource
from m4c.targets.profile import load_target

CPU, GPU, TPU = map(load_target, ("cpu", "gpu", "edgetpu"))


STEPS = (1, "past", "past + sequence", "sequence")


def source(*shape: int | str, dynamic: frozenset[str] = frozenset()) -> Source:
    """Return a source of one input of ``shape``; past and sequence grow, unless they have to be numbers."""
    graph = Graph(
        "any/graph",
        GraphModule(nn.Identity()),
        (Port("x", "float32", shape, "any"),),
        (),
        lambda rng, sizes: {},
        sizes={"batch": 1, "past": 5, "sequence": 3},
        dynamic=frozenset({"past", "sequence"}),
        static={name: size for name, size in (("past", 7), ("sequence", 1)) if name in shape},
        max_steps=16,
    )
    return TorchSource(graph, {}, dynamic)


def test_the_target_decides_unless_the_user_does() -> None:
    assert plan(Request(target=CPU), source(1, 4)) == Plan("onnx", "float32", "cpu")
    rewritten = Plan("tflite", "int8", "edgetpu", rewrites=TPU.runtimes["tflite"].rewrites)
    assert plan(Request(target=TPU), source(1, 4)) == rewritten
    half = Plan("tflite", "float16", "gpu", rewrites=GPU.runtimes["tflite"].rewrites)
    assert plan(Request(target=GPU), source(1, 4)) == half
    assert plan(Request(target=GPU, precision="int4"), source(1, 4)).rewrites == frozenset()
    chosen = Request(target=CPU, format="tflite", precision="int8")
    assert plan(chosen, source(1, 4)) == Plan("tflite", "int8", "cpu")


def test_float16_is_for_both_formats_but_not_for_genai() -> None:
    assert plan(Request(target=GPU, format="onnx"), source(1, 4)) == Plan("onnx", "float16", "gpu")
    assert plan(Request(target=CPU, precision="float16"), source(1, 4)) == Plan("onnx", "float16", "cpu")
    with pytest.raises(
        UsageError, match=r"not built in float16(.|\n)*fix: add --quantize int4, or leave out"
    ):
        plan(Request(target=CPU, precision="float16", dialect="genai"), source(1, 4))


def test_ranges_are_chosen_for_integers_alone() -> None:
    assert plan(Request(target=TPU, observer="mse"), source(1, 4)).precision == "int8"
    with pytest.raises(
        UsageError, match=r"--observer mse(.|\n)*precision is float32(.|\n)*fix: add --quantize"
    ):
        plan(Request(target=CPU, observer="mse"), source(1, 4))


@pytest.mark.parametrize(
    "request_",
    [Request(target=TPU), Request(target=TPU, format="onnx"), Request(target=CPU, format="tflite")],
)
def test_what_grows_has_numbers_where_shapes_are_static(request_: Request) -> None:
    made = plan(request_, source(*STEPS))
    assert (made.fallback, made.processor) == (None, request_.target.name)
    assert made.sizes == {"past": 7, "sequence": 1}
    chosen = plan(replace(request_, sizes=(("past", 9),)), source(*STEPS))
    assert chosen.sizes == {"past": 9, "sequence": 1}
    (port,) = source(*STEPS).sized(chosen.sizes).inputs
    assert port.shape == (1, 9, 10, 1)


def test_a_user_may_want_numbers_anywhere() -> None:
    made = plan(Request(target=CPU, sizes=(("past", 4),)), source(*STEPS))
    sized = source(*STEPS).sized(made.sizes)
    assert [port.shape for port in sized.inputs] == [(1, 4, "past + sequence", "sequence")]
    assert sized.sizes == {"past": 4}


SEVERAL = (("past", 4), ("sequence", 1), ("sequence", 8))


def test_sizes_of_a_call_are_signatures() -> None:
    asked = Request(target=CPU, format="tflite", sizes=SEVERAL)
    made = plan(asked, source(*STEPS))
    assert made.sizes == {"past": 4, "sequence": 1}
    assert made.signatures == {
        "decode": {"past": 4, "sequence": 1},
        "prefill_8": {"past": 4, "sequence": 8},
    }
    assert plan(asked, source(1, 4)).signatures == {"serving_default": {"past": 4, "sequence": 1}}
    assert plan(Request(target=CPU), source(*STEPS)).signatures == {"": {}}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, r"sequence cannot be 1 and 8 at once in onnx\n.*\n  fix: add --format tflite"),
        (
            {"format": "tflite", "precision": "int8"},
            r"signatures for 1 and 8 steps would each be calibrated.*\n.*\n  fix: .*--quantize int8-weights",
        ),
    ],
)
def test_signatures_where_there_can_be_one(asked: dict[str, str], reason: str) -> None:
    request_ = Request(target=CPU, sizes=SEVERAL, **asked)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=reason):
        plan(request_, source(*STEPS))
    assert plan(request_, source(1, 4)).several == {}


def test_what_the_user_wants_dynamic_is_built_for_the_cpu() -> None:
    made = plan(Request(target=CPU, format="tflite"), source(*STEPS, dynamic=frozenset({"past"})))
    assert (made.format, made.precision, made.processor) == ("onnx", "float32", "cpu")
    assert made.fallback == "past change from call to call, cpu has static shapes"


def test_what_grows_may_run_where_shapes_are_dynamic() -> None:
    made = plan(Request(target=CPU), source(*STEPS))
    assert (made.fallback, made.sizes) == (None, {})


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"past": 16}, "past and sequence are 19 steps together, the model knows 16"),
        ({"past": 10, "sequence": 7}, r"are 17 steps(.*\n)*.*--size past=9 --size sequence=7"),
        ({"sequence": 0}, "sequence cannot be 0"),
    ],
)
def test_sizes_that_no_model_has(sizes: dict[str, int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        source(*STEPS).sized(sizes)


def test_sizes_of_dimensions_that_a_graph_does_not_have_are_not_its_own() -> None:
    assert source(1, 4).sized({"past": 99}).sizes == {}


def test_what_nobody_has_samples_of_is_built_for_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    asked = Request(target=TPU, calibration=str(tmp_path))
    made = plan(asked, source(1, 4))
    assert (made.precision, made.processor) == ("float32", "cpu")
    assert "no calibration samples of its inputs (x)" in str(made.fallback)
    (tmp_path / "0.npz").touch()
    assert plan(asked, source(1, 4)).precision == "int8"


def test_a_fallback_keeps_its_reason() -> None:
    asked = Request(target=TPU, sizes=(("past", 9),))
    assert fall_back("because", asked) == Plan(
        "onnx", "float32", "cpu", fallback="because", sizes={"past": 9}
    )
    assert fall_back("because", replace(asked, sizes=SEVERAL)).sizes == {"past": 4}


def test_requests_can_be_handed_to_another_process() -> None:
    request = Request(target=TPU, submodels=("gen_dec",), dynamic=frozenset({"batch"}))
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_weights_alone_are_packed_for_onnx_runtime_unless_the_user_says_otherwise(precision: str) -> None:
    asked = Request(target=CPU, precision=precision)
    assert plan(asked, source(1, 4)) == Plan("onnx", precision, "cpu", "ort")
    asked = Request(target=CPU, precision=precision, dialect="standard")
    assert plan(asked, source(1, 4)) == Plan("onnx", precision, "cpu", "standard")


def test_weights_alone_in_tflite() -> None:
    asked = Request(target=CPU, precision="int4", format="tflite")
    assert plan(asked, source(1, 4)) == Plan("tflite", "int4", "cpu")
    with pytest.raises(UsageError, match="weights around zero alone"):
        plan(replace(asked, scheme=Scheme(4, symmetric=False)), source(1, 4))


def test_weights_alone_of_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxSource, "inputs", source(1, 4).inputs)
    made = plan(Request(target=CPU, precision="int4"), OnnxSource(tmp_path / "m.onnx"))
    assert made == Plan("onnx", "float32", "cpu", fallback="int4 of an ONNX file is not supported")


def test_a_dialect_of_what_has_none() -> None:
    for request in (
        Request(target=TPU, dialect="ort"),
        Request(target=CPU, format="tflite", dialect="standard"),
    ):
        with pytest.raises(UsageError, match="is for ONNX, the format is tflite"):
            plan(request, source(1, 4))


def of(submodel: str) -> dict[str, TorchSource]:
    """Return the graphs of a sub-model of m4-nano, without weights."""
    with skeleton():
        return {graph.name: TorchSource(graph, {}) for graph in build(submodel, "m4-nano").graphs}


def test_caches_are_narrowed_in_the_backbone_s_graphs_that_have_one() -> None:
    asked = Request(target=CPU, cache_type="int8")
    made = {name: plan(asked, one).cache for name, one in (of("backbone") | of("aud_i_enc")).items()}
    assert made.pop("backbone/decoder") == made.pop("backbone/model") == "int8"
    assert set(made.values()) == {"float32"}


def test_options_of_a_cache_that_is_not_there() -> None:
    for wrong in ({"context_length": 9}, {"cache_type": "float16"}):
        with pytest.raises(UsageError, match="--context-length and --cache-type are for backbone"):
            Request(target=CPU, submodels=("gen_dec",), **wrong)
    for lite in ({"target": TPU}, {"target": CPU, "format": "tflite"}):
        with pytest.raises(UsageError, match="--cache-type int8 is for ONNX, the format is tflite"):
            Request(cache_type="int8", **lite)
    with pytest.raises(UsageError, match="hands on no scales"):
        Request(target=CPU, cache_type="int8", dialect="genai")
