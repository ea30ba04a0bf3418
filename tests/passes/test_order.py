"""The order of passes, as manifests keep it."""

from pathlib import Path

import pytest

from m4c.errors import PipelineError
from m4c.numerics import SQNR_FLOOR_DB
from m4c.passes import LEGALIZE, OBSERVERS, before_ranges, canonical, for_format, for_integers, without_ranges
from m4c.passes.calibrate import Calibrate
from m4c.passes.canonicalize import Canonicalize
from m4c.passes.quantize_static import QuantizeStatic
from m4c.pipeline import Pipeline
from m4c.precisions import INTEGER
from m4c.targets.profile import load_target
from m4c.targets.rules import FLOAT_REWRITES, REWRITES

CANONICAL = "simplify | canonicalize | fold-weights | simplify | canonicalize"


def test_pipelines_print_as_manifests_keep_them() -> None:
    calibrate = Calibrate([], Path("nowhere"))
    assert str(canonical()) == CANONICAL
    assert str(for_format("onnx")) == CANONICAL
    assert str(for_format("tflite")).startswith(
        f"{CANONICAL} | unroll-recurrent | decompose-batch-norm | decompose-group-norm | merge-norm-axes | decompose-layer-norm"
    )
    assert str(for_integers("int8", "onnx", calibrate)).startswith(
        f"{CANONICAL} | drop-nan-guards | tabulate | equalize-norms | split-softmax | "
        "offer-norms | calibrate | choose-norms | guard-divisors | quantize-static"
    )
    norms = "decompose-batch-norm | decompose-group-norm | merge-norm-axes | decompose-layer-norm{form=norm}"
    assert f"{CANONICAL} | unroll-recurrent | {norms} | drop-nan-guards | " in str(
        for_integers("int8", "tflite", calibrate)
    )
    wide = str(for_integers("int16x8", "tflite", calibrate))
    assert (
        "| decompose-group-norm | merge-norm-axes | decompose-layer-norm{form=product} | drop-nan-guards | legalize-rms | "
        "canonicalize{only=('Identity', 'Reshape')} | tabulate | calibrate" in wide
    )
    assert wide.endswith("guard-divisors{bits=16} | quantize-static{wide=all}")


def test_a_target_adds_its_rewrites_in_the_order_of_their_table() -> None:
    calibrate = Calibrate([], Path("nowhere"))
    names = [*REWRITES, *(name for name in FLOAT_REWRITES if name not in REWRITES)]
    assert [name for name in names if name in LEGALIZE] == list(LEGALIZE)
    text = str(for_integers("int8", "tflite", calibrate, {"gelu", "attention", "linear"}))
    assert (
        "{form=norm} | drop-nan-guards | legalize-rms | legalize-gelu | legalize-attention | "
        "canonicalize{only=('Identity', 'Reshape')} | tabulate" in text
    )
    assert str(for_integers("int16x8", "tflite", calibrate)).count("legalize") == 1
    assert load_target("edgetpu").runtimes["tflite"].rewrites == set(REWRITES) - {"rows", "lengths"}
    assert load_target("gpu").runtimes["tflite"].rewrites == set(FLOAT_REWRITES)


def test_norms_without_a_kernel_are_settled_before_there_are_ranges() -> None:
    calibrate = Calibrate([], Path("nowhere"))
    text = str(for_integers("int8", "tflite", calibrate, {"lengths"}))
    assert text.endswith("offer-norms | calibrate | legalize-lengths | guard-divisors | quantize-static")
    assert str(without_ranges("int8", "tflite", {"lengths"})).endswith("offer-norms | legalize-lengths")
    assert without_ranges("int8", "tflite") == before_ranges("int8", "tflite")


def test_every_integer_precision_has_passes_and_an_observer() -> None:
    calibrate = Calibrate([], Path("nowhere"))
    assert set(OBSERVERS) == INTEGER == set(SQNR_FLOOR_DB)
    for precision in INTEGER:
        known = str(before_ranges(precision, "tflite", {"gelu"}))
        assert str(for_integers(precision, "tflite", calibrate, {"gelu"})).startswith(f"{known} | ")


def test_passes_refuse_to_come_too_early() -> None:
    with pytest.raises(PipelineError, match="canonicalize needs typed"):
        Pipeline((Canonicalize(),))
    with pytest.raises(PipelineError, match="quantize-static needs calibrated"):
        canonical() | QuantizeStatic()
