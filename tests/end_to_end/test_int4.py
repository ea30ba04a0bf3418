"""Weights in 4 and 8 bits through the command line: the small backbone, its options, and what must not pass."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

from m4c.blockwise import BlockwiseWeight
from m4c.numerics import sqnr
from m4c.rewrite import Replacement
from m4c.runners import OnnxRunner
from m4c.weights import Array, Recipe, array, lazy
from tests.end_to_end.here import Done, Export, capture_once, export

__all__ = ["capture_once", "export"]

HEAD = "lm_head.weight"


def made(done: Done) -> Done:
    """Return an export that succeeded, is near its source, and runs as an app would run it."""
    assert done.code == 0, done.err
    graph = done.graph
    assert graph.fallback is None
    assert graph.verification.max_relative_error < 1e-5
    vector = load_file(done.out / graph.vector.path)
    inputs = {port.name: vector[f"inputs.{port.name}"] for port in graph.inputs}
    found = OnnxRunner(done.out / graph.file.path).run(inputs)
    for name, values in found.items():  # a kernel may round activations, to 8 bits
        assert sqnr(vector[f"outputs.{name}"], values) > 30, name
    return done


@pytest.mark.parametrize(
    ("options", "packed", "beside"),
    [
        (("int4",), 11, 0),  # queries, keys and values are one
        (("int4", "--dialect", "standard"), 0, 15),
        (("int4", "--asymmetric", "--group-size", "16"), 11, 0),
        (("int4", "--asymmetric", "--dialect", "standard", "--group-size", "16"), 0, 15),
        (("int4", "--group-size", "0"), 0, 15),
        (("int8-weights",), 11, 0),
        (("int8-weights", "--asymmetric", "--dialect", "standard", "--group-size", "16"), 0, 15),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_exports(export: Export, options: tuple[str, ...], packed: int, beside: int) -> None:
    operators = made(export("--quantize", *options)).operators
    assert operators.get("com.microsoft::MatMulNBits", 0) == packed
    assert operators.get("DequantizeLinear", 0) == beside
    fused = operators.get("com.microsoft::GroupQueryAttention", 0)
    assert fused == (0 if "standard" in options else 2)
    assert operators.get("MatMul", 0) == beside + (0 if fused else 4)  # scores and sums of two layers


def test_the_table_of_tokens(export: Export) -> None:
    done = made(export("--quantize", "int4", graph="backbone/embed"))
    assert done.operators == {"DequantizeLinear": 1, "Gather": 2}
    assert {values.dtype for values in done.stored.values()} == {np.dtype(np.int8), np.dtype(np.float32)}


def test_group_size_and_zero_points(export: Export) -> None:
    stored = made(export("--quantize", "int4", "--asymmetric", "--group-size", "16")).stored
    assert stored[f"{HEAD}.packed"].shape == (512, 8, 8)
    assert stored[f"{HEAD}.packed.scales"].shape == (512, 8)
    assert stored[f"{HEAD}.packed.zeros"].shape == (512, 4)


def test_what_is_kept(export: Export) -> None:
    stored = made(
        export("--quantize", "int4", "--keep", "lm_head.*=float32", "--keep", "*.mlp.*=int8")
    ).stored
    head = [name for name in stored if "lm_head" in name]
    assert len(head) == 1
    assert stored[head[0]].dtype == np.float32
    assert stored[head[0]].shape == (128, 512)
    widths = {
        name.split(".")[-3]: values.shape[2] for name, values in stored.items() if name.endswith(".packed")
    }
    assert widths["o_proj"] == 32  # 64 in a group, 4 bits
    assert widths["up_proj"] == 128


def test_two_exports_are_equal(export: Export) -> None:
    first, second = (made(export("--quantize", "int4", name=name)).out for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for path in files:
        if path.suffix in (".onnx", ".bin"):
            assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_the_manifest_tells_how(export: Export) -> None:
    done = made(export("--quantize", "int4", "--group-size", "16", "--keep", "lm_head.*=int8"))
    record = json.loads((done.out / "manifest.json").read_text("utf-8"))["submodels"][0]["graphs"][0]
    assert record["precision"] == "int4"
    assert "quantize-weights{scheme=int4/16, rtn, lm_head.*=int8}" in record["pipeline"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--group-size", "32"), "these options are for int8-weights and int4"),
        (("--quantize", "int8", "--asymmetric"), "these options are for int8-weights and int4"),
        (("--quantize", "none", "--keep", "a=int8"), "these options are for int8-weights and int4"),
        (("--quantize", "int4", "--keep", "lm_head"), "--keep lm_head has no precision"),
        (("--quantize", "int4", "--keep", "lm_head=int3"), "lm_head cannot be kept in 'int3'"),
        (("--quantize", "int4", "--group-size", "24"), "a group size of 24"),
        (("--quantize", "int4", "--group-size", "8"), "a group size of 8"),
        (("--quantize", "int4", "--group-size", "128"), "a group size of 128 does not divide the 352 inputs"),
        (("--quantize", "int4", "--format", "tflite", "--dialect", "ort"), "is for ONNX"),
        (("--quantize", "int4", "--format", "tflite", "--asymmetric"), "weights around zero alone"),
        (("--quantize", "int4", "--format", "tflite", "--group-size", "16"), "with a group size of 16"),
        (("--quantize", "int4", "--format", "tflite", "--group-size", "0"), "with a group size of 0"),
        (
            ("--quantize", "int8-weights", "--format", "tflite", "--group-size", "32"),
            "with a group size of 32",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be(export: Export, options: tuple[str, ...], reason: str) -> None:
    done = export(*options)
    assert done.code == 2, done.err
    assert reason in done.err
    assert "  fix: " in done.err
    assert "Traceback" not in done.err
    assert not done.out.exists()


def changed(tensor: Recipe, change: Callable[[Array], Array]) -> Recipe:
    """Return ``tensor`` with other values."""
    held = tensor.shape.numpy()
    return lazy(str(tensor.name), tensor.dtype, held, lambda: change(array(tensor)), origin=tensor.origin)


Change = Callable[[Array], Array]


def too_large(scales: Array) -> Array:
    """Give one row in eight scales that are 8 times as large."""
    scales = scales.copy()
    scales[::8] *= 8
    return scales


def turned(codes: Array) -> Array:
    """Store inputs and outputs the wrong way round."""
    return np.ascontiguousarray(codes.swapaxes(0, 1)).reshape(codes.shape)


def swapped(codes: Array) -> Array:
    """Store the halves of each byte the wrong way round."""
    return np.asarray(codes << 4 | codes >> 4, np.uint8)


def shifted(codes: Array) -> Array:
    """Store each row in the place of the next."""
    return np.roll(codes, 1, axis=0)


@pytest.mark.parametrize(
    ("matrix", "index", "change"),
    [
        (HEAD, 0, turned),
        (HEAD, 0, shifted),
        ("layers.1.self_attn.q_proj", 0, swapped),
        ("layers.1.mlp.down_proj", 1, np.negative),
        (HEAD, 1, too_large),
        ("layers.0.mlp.up_proj", 2, np.zeros_like),
    ],
    ids=["turned", "shifted", "halves", "signs", "scales", "zero points"],
)
def test_wrong_bytes_never_pass(
    export: Export, monkeypatch: pytest.MonkeyPatch, matrix: str, index: int, change: Change
) -> None:
    """The artifact differs from the source with the weights that were meant, or those from the true ones."""
    packed = BlockwiseWeight.packed

    def broken(weight: BlockwiseWeight) -> tuple[Recipe | None, ...]:
        tensors = list[Recipe | None](packed(weight))
        tensor = tensors[index]
        if matrix in weight.name and tensor is not None:
            tensors[index] = changed(tensor, change)
        return tuple(tensors)

    monkeypatch.setattr(BlockwiseWeight, "packed", broken)
    done = export("--quantize", "int4", "--asymmetric", "--group-size", "16")
    assert done.code == 5, done.err
    assert "was rounded to other values" in done.err
    assert matrix in done.err
    assert not done.out.exists()


def test_a_wrong_operator_is_found(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are right, and the graph adds them up in another way."""
    import m4c.passes.quantize_weights as module

    class Broken(Replacement):
        def op(self, op_type: str, *rest: Any, **keywords: Any) -> ir.Value:
            made = super().op(op_type, *rest, **keywords)
            return super().op("Add", [made, made], **keywords) if op_type == "MatMul" else made

    monkeypatch.setattr(module, "Replacement", Broken)
    done = export("--quantize", "int4", "--dialect", "standard")
    assert done.code == 5, done.err
    assert "differs from its source" in done.err
