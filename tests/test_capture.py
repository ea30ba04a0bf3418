import logging
import sys

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from m4c.capture import FROM_CHECKPOINT, OPSET, bind, capture, translate
from m4c.eager import run_eager
from m4c.errors import Bug, CaptureError
from m4c.model import module_path
from m4c.models.graph import Graph, GraphModule, Port
from m4c.numerics import difference
from m4c.skeleton import skeleton
from m4c.weights import array, is_weight, lazy
from tests.two_layers import TwoLayers, Whole, graph_of, sample, stored, tiny, weights_of


def fake() -> TwoLayers:
    with skeleton():
        return TwoLayers().eval()


@pytest.fixture(scope="module")
def captured() -> ir.Model:
    return capture(graph_of(Whole(fake())))


def run(model: ir.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    held = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(held, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_the_interface_has_the_stated_names_and_sizes(captured: ir.Model) -> None:
    assert captured.opset_imports[""] == OPSET
    (x,), (y,) = captured.graph.inputs, captured.graph.outputs
    assert (x.name, x.dtype, x.shape) == ("x", ir.DataType.FLOAT, ir.Shape([1, 3, 8]))
    assert (y.name, y.dtype, y.shape) == ("y", ir.DataType.FLOAT, ir.Shape([1, 3, 8]))


def test_initializers_have_the_names_of_the_checkpoint(captured: ir.Model) -> None:
    weights = {v.name: v for v in captured.graph.initializers.values() if is_weight(v)}
    state = tiny().source.state_dict()
    assert set(weights) == set(state)
    for name, value in weights.items():
        assert value.metadata_props[FROM_CHECKPOINT] == name
        assert value.shape == ir.Shape(state[name].shape)
    (shift,) = [v for v in captured.graph.initializers.values() if v.name and v.name.endswith("shift")]
    assert shift.const_value is not None
    np.testing.assert_array_equal(array(shift.const_value), TwoLayers().shift.numpy())


def test_nodes_know_their_module(captured: ir.Model) -> None:
    paths = {module_path(node) for node in captured.graph}
    assert {"norm", "up", "down"} <= paths


def test_an_unbound_weight_is_never_read(captured: ir.Model) -> None:
    """The capture itself ran: whatever read a weight would have raised this."""
    tensor = captured.graph.initializers["up.weight"].const_value
    assert tensor is not None
    with pytest.raises(Bug, match=r"up\.weight was read, but no checkpoint is bound"):
        array(tensor)


def test_bound_it_computes_what_torch_does(rng: np.random.Generator) -> None:
    whole = tiny()
    graph = graph_of(Whole(fake()))
    model = capture(graph)
    bind(model, weights_of(whole.source))
    inputs = sample(rng, {"batch": 1})
    expected = run_eager(graph, weights_of(whole.source), inputs)
    assert difference(expected["y"], run(model, inputs)["y"]).max_relative < 1e-5


@pytest.mark.parametrize("wrong", [np.zeros((8, 160), np.float32), np.zeros((160, 8), np.float64)])
def test_binding_another_dtype_or_shape_is_a_bug(captured: ir.Model, wrong: np.ndarray) -> None:
    weights = weights_of(tiny().source)
    weights["up.weight"] = stored("up.weight", wrong)
    with pytest.raises(Bug, match=r"up\.weight was bound to a tensor of another dtype or shape"):
        bind(captured.clone(), weights)


def test_binding_reads_nothing(captured: ir.Model) -> None:
    def read() -> np.ndarray:
        raise AssertionError

    state = tiny().source.state_dict()
    bind(captured.clone(), {n: lazy(n, ir.DataType.FLOAT, t.shape, read) for n, t in state.items()})


def test_a_dynamic_batch_serves_every_size(rng: np.random.Generator) -> None:
    graph = graph_of(Whole(fake()))
    model = capture(graph, frozenset({"batch"}))
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape == ir.Shape(["batch", 3, 8])
    weights = weights_of(tiny().source)
    bind(model, weights)
    for batch in (1, 2, 5):
        inputs = sample(rng, {"batch": batch})
        expected = run_eager(graph, weights, inputs)["y"]
        assert difference(expected, run(model, inputs)["y"]).max_relative < 1e-5


class Cache(GraphModule):
    """Returns what it is given, something twice, and a value that torch names like an output."""

    def forward(self, first: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        add = first + 1
        joined = torch.cat([add, *rest], dim=1)
        return joined, joined, first, add * 2


def test_outputs_that_are_inputs_or_twice_the_same_and_names_that_clash(rng: np.random.Generator) -> None:
    one = Port("mul", "float32", ("batch", "sequence"), "named like an operator of torch")
    two = Port("past", "float32", ("batch", "past"), "before")
    both = Port("add", "float32", ("batch", "past + sequence"), "named like an inner value")
    again, given, last = (
        Port("cat", "float32", both.shape, ""),
        Port("given", "float32", one.shape, ""),
        Port("last", "float32", one.shape, ""),
    )
    graph = Graph(
        "tiny/cache", Cache(nn.Identity()), (one, two), (both, again, given, last), sample,
        sizes={"batch": 1, "sequence": 2, "past": 1}, dynamic=frozenset({"sequence", "past"}),
    )  # fmt: skip
    model = capture(graph)
    assert [v.name for v in model.graph.inputs] == ["mul", "past"]
    assert [v.name for v in model.graph.outputs] == ["add", "cat", "given", "last"]
    names = [v.name for node in model.graph for v in node.outputs]
    assert len(set(names)) == len(names)
    assert "add.inner" in names
    assert model.graph.inputs[1].shape == ir.Shape([1, "past"])
    joined = model.graph.outputs[0].shape
    assert joined is not None
    assert joined[1] == "past + sequence"
    x = rng.standard_normal((1, 4)).astype(np.float32)
    for past in (np.ones((1, 0), np.float32), np.ones((1, 3), np.float32)):
        found = run(model, {"mul": x, "past": past})
        np.testing.assert_array_equal(found["add"], np.concatenate([x + 1, past], 1))
        np.testing.assert_array_equal(found["cat"], found["add"])
        np.testing.assert_array_equal(found["given"], x)
        np.testing.assert_array_equal(found["last"], (x + 1) * 2)


class Branch(GraphModule):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Bessel(GraphModule):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.special.bessel_j0(x)
        return made


@pytest.mark.parametrize(
    ("module", "what", "fix"),
    [
        (
            Branch,
            "torch.export failed: Could not guard on data-dependent expression",
            "independent of tensor values",
        ),
        (
            Bessel,
            "torch's ONNX exporter failed: No ONNX function found for .*bessel_j0",
            "ones that ONNX has",
        ),
    ],
)
def test_what_cannot_be_a_graph(
    module: type[GraphModule], what: str, fix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("torch").level
    with pytest.raises(CaptureError, match=what) as caught:
        capture(graph_of(module(nn.Identity())))
    assert caught.value.where == "tiny/whole"
    assert fix in caught.value.fix
    assert len(caught.value.what.splitlines()) == 1
    assert capfd.readouterr() == ("", "")  # torch dumps the half-made graph
    assert logging.getLogger("torch").level == level
    assert sys.stderr is not None


class Fixed(GraphModule):
    """Works for one size only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3, 8) * 2


def test_a_dimension_that_cannot_vary_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"torch\.export failed"):
        capture(graph_of(Fixed(nn.Identity())), frozenset({"batch"}))


class Unregistered(nn.Module):
    """Keeps a weight where torch does not see it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.hidden = [weight]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.hidden[0]


def test_a_weight_that_no_checkpoint_can_hold_is_refused() -> None:
    weight = fake().norm.weight.detach()
    with pytest.raises(CaptureError, match="neither in the state dict nor a buffer with values") as caught:
        capture(graph_of(Whole(Unregistered(weight))))
    assert "register it" in caught.value.fix


def test_ports_that_do_not_fit_the_module_are_a_bug() -> None:
    graph = graph_of(Whole(fake()), outputs=(Port("y", "float32", (1,), ""), Port("z", "float32", (1,), "")))
    with pytest.raises(Bug, match="captured 1 inputs and 1 outputs, stated are 1 and 2"):
        capture(graph)


def test_the_translated_program_has_the_values_of_the_model() -> None:
    made = translate(graph_of(Whole(fake())))
    assert made.exported_program is not None
    computed = {n.name for n in made.exported_program.graph.nodes if n.op == "call_function"}
    names = {v.name for n in made.model.graph for v in n.outputs}
    assert computed <= names
