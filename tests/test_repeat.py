"""repeat: stamped blocks are what an ordinary capture gives, or there is an error."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from m4c.capture import FROM_CHECKPOINT, bind, capture, translate
from m4c.errors import Bug, CaptureError, NumbersError
from m4c.model import module_path, operator, text_of
from m4c.models.graph import Graph, Repetition
from m4c.models.imagebind import PRESETS
from m4c.models.imagebind import build as build_imagebind
from m4c.models.llama import build
from m4c.models.llama_sizes import NANO, LlamaSizes
from m4c.passes import canonical
from m4c.repeat import stamped_names
from m4c.skeleton import skeleton
from m4c.source import TorchSource
from m4c.targets.emit_onnx import to_onnx
from m4c.trace import onnx_values
from m4c.verify import verify
from m4c.weight_file import WeightFile
from m4c.weights import Array, array, is_weight
from tests.deep_graph import WIDTH, Block, Deep, deep, whole
from tests.two_layers import stored, weights_of

SMALL = replace(NANO, vocabulary=32, width=16, ffn=24, heads=4, kv_heads=4, head_dim=4, max_positions=16)
LLAMAS = {
    "heads": replace(SMALL, layers=4),
    "groups and biases": replace(SMALL, layers=6, kv_heads=2, attention_bias=True, mlp_bias=True),
}


def decoder(config: LlamaSizes) -> Graph:
    with skeleton():
        return build("backbone", config).graphs[1]


def interface(model: ir.Model) -> list[tuple[object, ...]]:
    return [
        (v.name, v.dtype, [d if isinstance(d, int) else d.value for d in v.shape or ()])
        for v in (*model.graph.inputs, *model.graph.outputs)
    ]


def stored_of(model: ir.Model) -> list[tuple[object, ...]]:
    return [
        (v.name, v.dtype, v.shape, is_weight(v), v.metadata_props.get(FROM_CHECKPOINT))
        for v in model.graph.initializers.values()
    ]


def assert_isomorphic(made: ir.Model, expected: ir.Model) -> None:
    """Node for node the same operators, attributes, modules and operands; the same ports and initializers in order."""
    assert interface(made) == interface(expected)
    assert stored_of(made) == stored_of(expected)
    assert len(made.graph) == len(expected.graph)
    same: dict[ir.Value | None, ir.Value | None] = {None: None}
    same |= dict(zip(made.graph.inputs, expected.graph.inputs, strict=True))
    for value in made.graph.initializers.values():
        same[value] = expected.graph.initializers[str(value.name)]
    for a, b in zip(made.graph, expected.graph, strict=True):
        assert (operator(a), a.overload, a.version) == (operator(b), b.overload, b.version)
        if "." in module_path(b):  # nodes outside of modules are called as torch counts them
            assert module_path(a) == module_path(b)
        assert {n: text_of(v) for n, v in a.attributes.items()} == {
            n: text_of(v) for n, v in b.attributes.items()
        }
        assert [same[v] for v in a.inputs] == list(b.inputs)
        for x, y in zip(a.outputs, b.outputs, strict=True):
            assert (x.dtype, str(x.shape)) == (y.dtype, str(y.shape))
            same[x] = y
    assert [same[v] for v in made.graph.outputs] == list(expected.graph.outputs)


def run(model: ir.Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    held = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(held, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def random_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    rng = np.random.default_rng(1)
    return {
        v.metadata_props[FROM_CHECKPOINT]: stored(
            v.metadata_props[FROM_CHECKPOINT],
            rng.standard_normal(tuple(v.shape.numpy()) if v.shape else ()).astype(np.float32) / 4,
        )
        for v in model.graph.initializers.values()
        if FROM_CHECKPOINT in v.metadata_props
    }


def names_of(model: ir.Model) -> list[str | None]:
    made = [v.name for node in model.graph for v in node.outputs]
    return made + [v.name for v in (*model.graph.inputs, *model.graph.initializers.values())]


@pytest.mark.parametrize("kind", LLAMAS)
def test_a_stamped_llama_is_an_ordinary_one(kind: str, rng: np.random.Generator) -> None:
    graph = decoder(LLAMAS[kind])
    made, expected = capture(graph), capture(whole(graph))
    assert_isomorphic(made, expected)
    names = names_of(made)
    assert len(set(names)) == len(names)
    weights = random_weights(expected)
    sizes = {"batch": 1, "sequence": 2, "past": 4}
    inputs = graph.sample(rng, sizes)
    for model in (made, expected):
        bind(model, weights)
    results = run(made, inputs)
    for name, value in run(expected, inputs).items():
        np.testing.assert_array_equal(results[name], value)


def test_towers_with_a_dynamic_batch() -> None:
    config = replace(PRESETS["m4-nano"]["aud_b_enc"], blocks=4)
    with skeleton():
        graph = build_imagebind("aud_b_enc", config).graphs[0]
    dynamic = frozenset({"batch"})
    assert_isomorphic(capture(graph, dynamic), capture(whole(graph), dynamic))


def test_modules_and_weights_have_the_number_of_their_block() -> None:
    graph = deep(12)
    made = capture(graph, frozenset({"batch"}))
    assert_isomorphic(made, capture(whole(graph), frozenset({"batch"})))
    adds = [node for node in made.graph if node.op_type == "LayerNormalization"]
    assert [module_path(node) for node in adds] == [f"blocks.{number}.norm" for number in range(12)]
    assert [str(node.outputs[0].name) for node in adds][1:5] == [
        "layer_norm_1", "layer_norm_2", "layer_norm_1.block3", "layer_norm_1.block4",
    ]  # fmt: skip
    assert names_of(made) == names_of(capture(graph, frozenset({"batch"})))
    tensor = made.graph.initializers["blocks.11.fc.weight"].const_value
    assert tensor is not None
    with pytest.raises(Bug, match=r"blocks\.11\.fc\.weight was read, but no checkpoint is bound"):
        array(tensor)


@pytest.mark.parametrize("count", [2, 3])
def test_few_blocks_are_captured_as_they_are(count: int) -> None:
    def never(fewer: int) -> Graph:
        raise AssertionError

    graph = deep(count)
    graph = replace(graph, repeats=Repetition("blocks", count, never))
    assert_isomorphic(capture(graph), capture(whole(graph)))


class Bare(Deep):
    """What the last block makes is the output, with nothing after it."""

    def after(self, x: Tensor, results: list[Tensor]) -> Tensor:
        return x


def test_the_last_block_may_make_the_output(rng: np.random.Generator) -> None:
    graph = deep(6, Bare)
    made = capture(graph)
    assert_isomorphic(made, capture(whole(graph)))
    names = names_of(made)
    assert len(set(names)) == len(names)


class Indexed(Deep):
    """Each block is called with another constant, inside of it."""

    def before(self, number: int, x: Tensor) -> Tensor:
        self.source["blocks"][number].factor = number + 2.0
        return x


class Factor(Block):
    factor = 1.0

    def forward(self, x: Tensor, gate: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        x, result = super().forward(x * self.factor, gate, extra)
        return x, result


class Between(Deep):
    def before(self, number: int, x: Tensor) -> Tensor:
        return torch.relu(x)


class Backwards(Deep):
    """Every second block reads what was before all of them."""

    def forward(self, x: Tensor, *extras: Tensor) -> tuple[Tensor, ...]:
        first, gate, results = x, torch.sigmoid(x), []
        for number, (block, extra) in enumerate(zip(self.source["blocks"], extras, strict=True)):
            x, result = block(first if number % 2 else x, gate, extra)
            results.append(result)
        return (self.after(x, results), *results)


class Crossed(Deep):
    """The second block takes the input of the third, and the third that of the second."""

    def forward(self, x: Tensor, *extras: Tensor) -> tuple[Tensor, ...]:
        zero, one, two, *rest = extras
        return super().forward(x, zero, two, one, *rest)


class Summed(Deep):
    """Reads every block at the end."""

    def after(self, x: Tensor, results: list[Tensor]) -> Tensor:
        y: Tensor = self.source["head"](sum(results, x))
        return y


class Buffered(Block):
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.rand(WIDTH), persistent=False)

    def forward(self, x: Tensor, gate: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x + self.shift, gate, extra)


class Turned(Block):
    """A difference, of two values that are made alike; which from which is the block's own."""

    turned = False

    def forward(self, x: Tensor, gate: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(x)
        second = torch.relu(first + extra)
        return (second - first if self.turned else first - second) + gate, first * 2


class Turning(Deep):
    def before(self, number: int, x: Tensor) -> Tensor:
        self.source["blocks"][number].turned = bool(number % 2)
        return x


class TwoSums(Block):
    """Returns two values that are made alike."""

    def forward(self, x: Tensor, gate: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        first = x * gate + extra
        return first, first + x


class Early(Deep):
    """The second block reads the other of the two values that the block before made."""

    def forward(self, x: Tensor, *extras: Tensor) -> tuple[Tensor, ...]:
        gate = torch.sigmoid(x)
        results: list[Tensor] = []
        for number, (block, extra) in enumerate(zip(self.source["blocks"], extras, strict=True)):
            x, result = block(results[0] if number == 1 else x, gate, extra)
            results.append(result)
        return (self.after(x, results), *results)


@pytest.mark.parametrize(
    ("kind", "block", "what", "where"),
    [
        (Indexed, lambda number: Factor(), "not the same: Constant .* again", "blocks.2"),
        (Between, lambda number: Block(), "Relu relu_1 is between two blocks", "relu_1"),
        (Backwards, lambda number: Block(), "not the same: LayerNormalization .* reads", "blocks.2.norm"),
        (Crossed, lambda number: Block(), "reads extra_1 where block 1 reads extra_2", "blocks.2"),
        (Turning, lambda number: Turned(), "Sub sub_2 reads relu_4 where block 1 reads relu_3", "blocks.2"),
        (Early, lambda number: TwoSums(), "Mul mul_2 reads .* where block 1 reads result_0", "blocks.2"),
        (Summed, lambda number: Block(), "reads .* not of the last block", ""),
        (Deep, lambda number: Buffered(), "is a buffer of one block", "tiny/deep"),
        (Deep, lambda number: Block(number != 4), "not built like the first", "tiny/deep: blocks.4"),
        (Deep, lambda number: Block(number != 2), "not built like the first", "tiny/deep: blocks.2"),
    ],
)
def test_what_is_no_repetition_is_refused(
    kind: type[Deep], block: Callable[[int], nn.Module], what: str, where: str
) -> None:
    with pytest.raises(CaptureError, match=what) as caught:
        capture(deep(6, kind, block))
    assert where in caught.value.where
    assert caught.value.fix


def test_ports_must_be_stated_alike() -> None:
    graph = deep(5)
    names = ("result_4", "results")
    outputs = tuple(replace(p, name=names[1]) if p.name == names[0] else p for p in graph.outputs)
    with pytest.raises(CaptureError, match="no block has the stated results"):
        capture(replace(graph, outputs=outputs))
    inputs = (*graph.inputs[:-1], replace(graph.inputs[-1], shape=("batch", "batch")))
    with pytest.raises(CaptureError, match="no block has the stated extra_4, or it is stated otherwise"):
        capture(replace(graph, inputs=inputs))


def truth(count: int) -> TorchSource:
    torch.manual_seed(0)
    graph = deep(count)
    return TorchSource(graph, weights_of(graph.module.source))


def test_a_trace_has_the_names_of_the_stamped_model(tmp_path: Path) -> None:
    one = truth(6)
    inputs, made, expected = one.sample(0), dict[str, Array](), dict[str, Array]()
    ir.save(one.capture(), tmp_path / "m.onnx")
    onnx_values(tmp_path / "m.onnx", inputs, made.__setitem__)
    one.record(inputs, expected.__setitem__)
    assert {"layer_norm_2", "layer_norm_1.block5", "result_5", "y"} <= set(expected) <= set(made)
    for name, value in expected.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-4, atol=1e-5)


def test_verification_names_the_block(tmp_path: Path) -> None:
    one = truth(6)
    broken = array(one.weights["blocks.4.fc.weight"]).copy()
    broken[1, 2] += 1
    wrong = replace(one, weights={**one.weights, "blocks.4.fc.weight": stored("blocks.4.fc.weight", broken)})
    model, _ = canonical().run(wrong.capture())
    with WeightFile(tmp_path / "w.bin") as file:
        to_onnx(model, tmp_path / "m.onnx", file)
    with pytest.raises(NumbersError) as caught:
        verify(one, model, tmp_path / "m.onnx", "float32", one.sample(0))
    assert "of blocks.4.fc: " in caught.value.where


def test_names_of_another_graph_are_a_bug() -> None:
    with pytest.raises(Bug, match="the stamped graph has Relu where torch has LayerNormalization"):
        stamped_names(translate(deep(1)).model, capture(deep(1, Between)))
