"""Wrong compilations: each is put into one layer of a small model; export ends with exit code 5 and names that layer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import save_file

import m4c.build
from m4c.adapters import proof
from m4c.adapters.separate import factors
from m4c.blockwise import BlockwiseWeight
from m4c.model import module_path
from m4c.models.llama_sizes import NANO
from m4c.passes import canonical, with_adapters
from m4c.pipeline import Pass, Pipeline, Result
from m4c.rewrite import Replacement, static
from m4c.slots import UP
from m4c.targets.emit_tflite import emit
from m4c.targets.emit_tflite.flat import Flat
from m4c.weights import Array, Recipe, array, constant, derive, lazy, register
from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]

Patch = pytest.MonkeyPatch
PutIn = Callable[[Patch, str], None]
"""Puts a fault into the layer of that name."""


@dataclass(frozen=True)
class Wrong(Pass):
    """A pass that does what it must not."""

    change: Callable[[ir.Graph], None] = field(repr=False)
    name: ClassVar[str] = "wrong"

    def call(self, model: ir.Model) -> Result:
        """Change the graph."""
        self.change(model.graph)
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return Result(model, modified=True)


def a_pass(change: Callable[[ir.Graph, str], None]) -> PutIn:
    """Put a pass that does ``change`` behind the canonical ones, and behind that which inserts adapters."""

    def put_in(patch: Patch, layer: str) -> None:
        real = with_adapters

        def broken(pipeline: Pipeline, slots: Any) -> Pipeline:
            whole, place = real(pipeline, slots), len(canonical().steps) + bool(slots)
            wrong = Wrong(lambda graph: change(graph, layer))
            return Pipeline((*whole.steps[:place], wrong, *whole.steps[place:]), whole.given)

        patch.setattr(m4c.build, "with_adapters", broken)

    return put_in


def the_emitter(change: Callable[[Flat, str], None]) -> PutIn:
    """Let ``change`` alter what is about to be written as a TFLite file."""

    def put_in(patch: Patch, layer: str) -> None:
        real = emit.lower

        def broken(model: ir.Model, *rest: Any) -> Flat:
            flat = real(model, *rest)
            made = [
                node for node in model.graph if module_path(node) == layer and "uantize" not in node.op_type
            ]
            change(flat, str(made[-1].outputs[0].name))
            return flat

        patch.setattr(emit, "lower", broken)

    return put_in


def nodes(graph: ir.Graph, layer: str, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type and module_path(node) == layer]


def read_other(graph: ir.Graph, node: ir.Node, index: int, change: Callable[[Array], Array]) -> None:
    """Let ``node`` read a stored tensor with other values, which no other node reads."""
    old = node.inputs[index]
    assert old is not None
    assert old.shape is not None
    node.replace_input_with(index, register(graph, derive(old, "wrong", change, shape=old.shape.numpy())))


def transposed_weight(graph: ir.Graph, layer: str) -> None:
    (node,) = nodes(graph, layer, "MatMul")
    read_other(graph, node, 1, np.transpose)


def swapped_keys_and_values(graph: ir.Graph, layer: str) -> None:
    """Each is computed from the other's matrix."""
    prefix = layer.removesuffix("k_proj")
    (keys,), (values,) = (nodes(graph, f"{prefix}{part}_proj", "MatMul") for part in "kv")
    first, second = keys.inputs[1], values.inputs[1]
    keys.replace_input_with(1, second)
    values.replace_input_with(1, first)


def dropped_bias(graph: ir.Graph, layer: str) -> None:
    (node,) = nodes(graph, layer, "Add")
    read_other(graph, node, 1, np.zeros_like)


def wrong_epsilon(graph: ir.Graph, layer: str) -> None:
    """1e-3 where this layer has 1e-6."""
    (node,) = nodes(graph, layer, "LayerNormalization")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def wrong_gelu(graph: ir.Graph, layer: str) -> None:
    """The approximation by a sigmoid, x · σ(1.702 x), which is within 0.02 of the exact one."""
    (node,) = nodes(graph, layer, "Gelu")
    edit, shape = Replacement(node), node.outputs[0].shape
    scaled = edit.op("Mul", [node.inputs[0], edit.constant("factor", 1.702)], shape=shape)
    edit.finish(edit.op("Mul", [node.inputs[0], edit.op("Sigmoid", [scaled], shape=shape)], shape=shape))


def mask_off_by_one(graph: ir.Graph, layer: str) -> None:
    """Each step sees the one after it, and not the first."""
    (causal,) = (value for value in graph.initializers.values() if str(value.name).endswith("causal"))
    (node,) = (node for node in causal.consumers() if module_path(node) == layer)
    read_other(graph, node, 1, lambda values: np.roll(values, 1, axis=-1))


def rotary_base(graph: ir.Graph, layer: str) -> None:
    """The angles of Llama 3, whose base is 500000, where Llama 2 has 10000."""
    steps, width = static(graph.initializers["cos"]) or ()
    angles = np.arange(steps)[:, None] / 500_000 ** (np.arange(0, width, 2) / width)
    tables = {"cos": (np.cos(angles), np.cos(angles)), "sin": (-np.sin(angles), np.sin(angles))}
    for name, halves in tables.items():
        true = graph.initializers[name]
        table = np.concatenate(halves, axis=1).astype(np.float32)
        wrong = constant(graph, f"{name}.wrong", table)
        (lookup,) = true.consumers()
        (shaped,) = lookup.outputs[0].consumers()
        for node in [node for node in shaped.outputs[0].consumers() if module_path(node) == layer]:
            edit = Replacement(node)
            rows = edit.op("Gather", [wrong, lookup.inputs[1]], shape=lookup.outputs[0].shape)
            turn = edit.op("Reshape", [rows, shaped.inputs[1]], shape=shaped.outputs[0].shape)
            edit.finish(edit.op("Mul", [node.inputs[0], turn], shape=node.outputs[0].shape))


def powers_moved(graph: ir.Graph, layer: str) -> None:
    """The matrix is 2²⁴ times as large, and the product divided by that: nothing changes, in float32."""
    (node,) = nodes(graph, layer, "MatMul")
    read_other(graph, node, 1, lambda values: values * np.float32(2**24))
    edit, shape = Replacement(node), node.outputs[0].shape
    product = edit.op("MatMul", node.inputs, shape=shape)
    edit.finish(edit.op("Mul", [product, edit.constant("power", 2.0**-24)], shape=shape))


def permuted_outputs(flat: Flat, value: str) -> None:
    """The new keys are returned as values, and the values as keys."""
    names = {"present_key_1": "present_value_1", "present_value_1": "present_key_1"}
    flat.outputs = [(names.get(name, name), index) for name, index in flat.outputs]


def zero_point(flat: Flat, value: str) -> None:
    """That of uint8 is written beside int8."""
    (index,) = (index for index, tensor in enumerate(flat.tensors) if tensor.name == value)
    tensor = flat.tensors[index]
    assert tensor.affine is not None
    wrong = replace(tensor.affine, zero_point=(min(127, tensor.affine.zero_point[0] + 128),))
    flat.tensors[index] = replace(tensor, affine=wrong)


def unguarded_float16(patch: Patch, layer: str) -> None:
    """Weights are stored in float16 whatever they hold."""
    a_pass(powers_moved)(patch, layer)
    patch.setattr(emit, "too_large", lambda flat: {})


def truncated_weight(patch: Patch, layer: str) -> None:
    """Of the codes only the first half is written."""
    packed = BlockwiseWeight.packed

    def broken(weight: BlockwiseWeight) -> tuple[Recipe | None, ...]:
        codes, *rest = packed(weight)
        assert codes is not None
        if layer not in weight.name:
            return codes, *rest
        shape = codes.shape.numpy()

        def cut() -> Array:
            return np.concatenate(
                [array(codes)[: shape[0] // 2], np.zeros((shape[0] // 2, *shape[1:]), np.uint8)]
            )

        return lazy(str(codes.name), codes.dtype, shape, cut), *rest

    patch.setattr(BlockwiseWeight, "packed", broken)


def adapter_scale(patch: Patch, layer: str) -> None:
    """One layer's α is taken for twice what it is."""
    real = factors

    def broken(*arguments: Any) -> dict[str, Array]:
        found = real(*arguments)
        found[f"{layer}{UP}"] = found[f"{layer}{UP}"] * np.float32(2)
        return found

    patch.setattr(proof, "factors", broken)


class Case(NamedTuple):
    """A wrong compilation."""

    graph: str
    options: tuple[str, ...]
    put_in: PutIn
    layer: str


TFLITE = ("--format", "tflite")
INT8 = (*TFLITE, "--quantize", "int8", "--calibration", "random")
INT4 = ("--quantize", "int4", "--group-size", "16")
SECOND = "model.layers.1"
IMU = "modality_trunks.imu.blocks.1"

CASES = {
    "transposed weight": Case(
        "backbone/decoder", (), a_pass(transposed_weight), f"{SECOND}.self_attn.o_proj"
    ),
    "swapped keys and values": Case(
        "backbone/decoder",
        (*TFLITE, "--quantize", "int4"),
        a_pass(swapped_keys_and_values),
        f"{SECOND}.self_attn.k_proj",
    ),
    "dropped bias": Case("imu_enc/encoder", TFLITE, a_pass(dropped_bias), f"{IMU}.mlp.fc1"),
    "wrong epsilon": Case("imu_enc/encoder", (), a_pass(wrong_epsilon), f"{IMU}.norm_2"),
    "mask off by one": Case(
        "txt_enc/encoder", INT8, a_pass(mask_off_by_one), "modality_trunks.text.blocks.1.attn"
    ),
    "rotary base": Case("backbone/decoder", (), a_pass(rotary_base), f"{SECOND}.self_attn"),
    "permuted outputs": Case(
        "backbone/decoder", TFLITE, the_emitter(permuted_outputs), f"{SECOND}.self_attn"
    ),
    "adapter scale": Case("backbone/decoder", INT4, adapter_scale, f"{SECOND}.self_attn.v_proj"),
    "zero point": Case("imu_enc/encoder", INT8, the_emitter(zero_point), f"{IMU}.mlp.fc1"),
    "truncated weight": Case("backbone/decoder", INT4, truncated_weight, f"{SECOND}.mlp.down_proj"),
    "float16 overflow": Case(
        "imu_enc/encoder", (*TFLITE, "--quantize", "fp16"), unguarded_float16, f"{IMU}.mlp.fc1"
    ),
    "wrong GELU": Case("imu_enc/encoder", TFLITE, a_pass(wrong_gelu), f"{IMU}.mlp"),
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an adapter of the backbone's values, as PEFT writes it."""
    folder, rng = tmp_path_factory.mktemp("adapter"), np.random.default_rng(0)
    options = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(options))
    factors = {
        f"base_model.model.model.layers.{layer}.self_attn.v_proj.lora_{part}.weight": shape
        for layer in range(2)
        for part, shape in (("A", (4, NANO.width)), ("B", (NANO.width, 4)))
    }
    save_file(
        {name: rng.standard_normal(shape, np.float32) * np.float32(0.1) for name, shape in factors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", CASES)
def test_it_is_found_where_it_is(name: str, export: Export, monkeypatch: Patch, adapter: Path) -> None:
    graph, options, put_in, layer = CASES[name]
    if "adapter" in name:
        options = (*options, "--adapter", f"one={adapter}", "--adapters", "separate")
    put_in(monkeypatch, layer)
    done = export(*options, graph=graph)
    assert done.code == 5, done.err
    place = next(line for line in done.err.splitlines() if line.startswith("  at:  "))
    assert f" of {layer}: " in place or place.startswith(f"  at:  {layer}"), place
    assert not done.out.exists()


def test_what_float16_cannot_hold_is_left_in_float32(export: Export, monkeypatch: Patch) -> None:
    """The same weights as in the overflow above, with the guard."""
    a_pass(powers_moved)(monkeypatch, f"{IMU}.mlp.fc1")
    done = export(*TFLITE, "--quantize", "fp16", graph="imu_enc/encoder")
    assert done.code == 0, done.err
    assert [name for name in done.graph.floats if "fc1" in name]
