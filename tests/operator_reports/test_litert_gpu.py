"""Evidence from LiteRT's GPU delegate: what it says in its log, of a file and of single operators.

Where ``M4C_GPU_DRIVER`` names a folder with a Vulkan driver, it is asked anew.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from m4c.errors import UsageError
from m4c.operator_reports import litert_gpu
from m4c.operator_reports.judged import judged
from m4c.operator_reports.litert_gpu import DRIVER, Answer, compiled
from m4c.operator_reports.placement import Placement
from m4c.progress import Silent
from m4c.runners import open_runner
from m4c.targets.emit_tflite import to_tflite
from m4c.targets.emit_tflite.single import single
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite
from tests.targets.emit_tflite.graphs import Build, drawn

GPU = load_target("gpu")
needs_gpu = pytest.mark.skipif(DRIVER not in os.environ, reason=f"{DRIVER} names no driver of a GPU")

SAID = """INFO: [delegate_webgpu.cc:363] Created a WebGPU environment.
ERROR: Following operations are not supported by GPU delegate:
DEQUANTIZE: 
L2_NORMALIZATION: Operation is not supported.
3 operations will run on the GPU, and the remaining 2 operations will run on the CPU.
"""  # noqa: W291
ALONE = SAID.replace("DEQUANTIZE: \n", "").replace("3 operations", "No operations")
ERROR = "ERROR: [./litert/cc/litert_compiled_model.h:1961]\n└ Some ops are not accelerated."
"""What LiteRT 2.3.0 said and answered of :func:`split`, and of its norm by itself."""


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Write a graph of which the delegate leaves the norm, and with it the DEQUANTIZE of the matrix."""
    b = Build()
    product = b.op("MatMul", b.op("Relu", b.input("x", 2, 16)), b.weight("w", drawn(16, 8)))
    to_tflite(
        b.model(b.op("LpNormalization", b.op("Tanh", product), axis=-1)), tmp_path / "m.tflite", half=True
    )
    return tmp_path / "m.tflite"


def check(found: Placement) -> None:
    assert (found.evidence, found.outcome) == ("compiled", "split")
    assert [node.operator for node in found.delegated] == ["RELU", "FULLY_CONNECTED", "TANH"]
    assert len(found.cut.delegated) == 1
    left = {cause.operator: cause.reason for cause in found.causes}
    assert set(left) == {"DEQUANTIZE", "L2_NORMALIZATION"}
    assert left["L2_NORMALIZATION"].text == "L2_NORMALIZATION: Operation is not supported."
    assert "not all else is taken" in left["DEQUANTIZE"].text
    assert left["L2_NORMALIZATION"].fix.startswith("rewrite it")


def answers(monkeypatch: pytest.MonkeyPatch, *given: Answer) -> list[list[str]]:
    """Let the delegate answer that, and return what it is asked, by the operators of each file."""
    asked, left = [], list(given)

    def instead(paths: Sequence[Path]) -> list[Answer]:
        asked.append([node.operator for path in paths for node in read_tflite(path)[0].nodes])
        return [left.pop(0) for _ in paths]

    monkeypatch.setattr(litert_gpu, "asked", instead)
    return asked


def test_what_the_log_says_is_told_of_nodes(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, Answer(ERROR, SAID), Answer(ERROR, ALONE))
    (found,) = judged(str(split), GPU, Silent(), evidence="compiled")
    assert isinstance(found, Placement)
    check(found)
    assert asked[1] == ["L2_NORMALIZATION"]


def test_a_node_is_asked_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Build()
    product = b.op("MatMul", b.weight("w", drawn(16, 32)), b.input("x", 32, 2))
    to_tflite(b.model(b.op("Relu", product)), tmp_path / "m.tflite", half=True)
    said = SAID.replace("L2_NORMALIZATION: Operation is not supported.", "BATCH_MATMUL: Not supported")
    answer = Answer(ERROR, said.replace("3 operations", "1 operations"))
    asked = answers(monkeypatch, answer, answer)
    (found,) = compiled(tmp_path / "m.tflite", GPU)
    assert [node.operator for node in found.delegated] == ["RELU"]
    assert asked[1] == ["DEQUANTIZE", "BATCH_MATMUL"]


def test_counts_that_do_not_agree_are_not_believed(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, Answer(ERROR, SAID.replace("3 operations", "2 operations")), Answer(ERROR, ALONE))
    with pytest.raises(UsageError, match="runs 2 operators, and 3 by what it does with single ones"):
        compiled(split, GPU)


def test_all_of_it_is_one_partition(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, Answer(None, ""))
    (found,) = compiled(split, GPU)
    assert (found.outcome, len(found.cut.delegated), found.first_break) == ("whole", 1, None)


def test_other_errors_are_told(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, Answer("ERROR: [x]\n└ Unable to parse bc coord for BATCH axis", ""))
    with pytest.raises(UsageError, match="does not take the file: └ Unable to parse bc coord"):
        compiled(split, GPU)


def test_without_a_device_it_says_how_to_get_one(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DRIVER, raising=False)
    monkeypatch.setenv("VK_ICD_FILENAMES", str(split.parent / "none.json"))
    with pytest.raises(UsageError, match=r"LiteRT finds no GPU(.|\n)*chromium-common(.|\n)*M4C_GPU_DRIVER"):
        compiled(split, GPU)
    monkeypatch.setenv(DRIVER, str(split.parent))
    with pytest.raises(UsageError, match=r"which has no libvk_swiftshader.so"):
        compiled(split, GPU)


def test_a_single_operator_computes_what_it_does_in_the_file(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    b = Build()
    model = b.model(b.op("MatMul", b.op("Relu", b.input("x", 2, 16)), b.weight("w", drawn(16, 8))))
    to_tflite(model, tmp_path / "m.tflite")
    x = rng.standard_normal((2, 16)).astype(np.float32)
    (expected,) = open_runner(tmp_path / "m.tflite").run({"x": x}).values()
    interpreter = Interpreter(model_content=single(tmp_path / "m.tflite", [1]))
    run = interpreter.get_signature_runner()
    (given,) = run.get_input_details()
    (made,) = run(**{given: np.maximum(x, 0)}).values()
    np.testing.assert_array_equal(made, expected)


@needs_gpu
def test_the_delegate_itself(split: Path) -> None:
    (found,) = compiled(split, GPU)
    check(found)


@needs_gpu
def test_a_rewritten_graph_is_taken_whole(tmp_path: Path) -> None:
    b = Build()
    to_tflite(
        b.model(b.op("MatMul", b.input("x", 2, 16), b.weight("w", drawn(16, 8)))),
        tmp_path / "m.tflite",
        half=True,
    )
    (found,) = compiled(tmp_path / "m.tflite", GPU)
    assert found.outcome == "whole"
