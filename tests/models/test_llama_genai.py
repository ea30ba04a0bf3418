"""The backbone as onnxruntime-genai calls it: against transformers, with padding, and on caches longer than what is in them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import LlamaForCausalLM

from m4c.host.masks import causal_mask, positions
from m4c.models.graph import Graph
from m4c.models.llama import LlamaSizes, build
from m4c.models.llama_genai import positions_and_mask
from m4c.models.llama_sizes import NANO, PRESETS
from m4c.numerics import difference
from m4c.passes import canonical
from m4c.passes.fuse_attention import FuseAttention
from m4c.runners import OnnxRunner
from m4c.source import TorchSource
from m4c.targets.emit_onnx import to_onnx
from m4c.weight_file import WeightFile
from tests.models.onnx_session import assert_fits, eager, graph, shake

SMALL = replace(NANO, layers=4, ffn=96, width=64, head_dim=16, max_positions=32)
GROUPED = replace(SMALL, kv_heads=2)
Arrays = Mapping[str, np.ndarray]


def backbone(sizes: LlamaSizes) -> tuple[Graph, LlamaForCausalLM]:
    """Build the graph with shaken weights, and the library's model with the same ones."""
    torch.manual_seed(0)
    submodel = build("backbone", sizes)
    shake(submodel.source)
    stock = LlamaForCausalLM(sizes.to_library()).eval()
    stock.load_state_dict(submodel.source.state_dict(), strict=True)
    return graph(submodel, "model"), stock


def inputs(made: Graph, tokens: np.ndarray, seen: np.ndarray, past: Arrays) -> dict[str, np.ndarray]:
    """Return the inputs for ``tokens`` of which ``seen`` tells all so far, after the outputs ``past``."""
    sizes = {"batch": 1, "past": 0}
    caches = {
        port.name: past.get(
            port.name.replace("past_key_values", "present"), np.zeros(port.sized(sizes), "f4")
        )
        for port in made.inputs[2:]
    }
    return {"input_ids": tokens, "attention_mask": seen, **caches}


def scores(stock: LlamaForCausalLM, tokens: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the library's scores for all tokens at once."""
    places = np.maximum(seen.cumsum(axis=1) - 1, 0)
    with torch.no_grad():
        out = stock(
            torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(seen),
            position_ids=torch.from_numpy(places),
        )
    return np.asarray(out.logits.numpy())


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, LlamaForCausalLM, OnnxRunner]:
    """Return the graph of grouped heads, the library's model, and the artifact with fused attention."""
    made, stock = backbone(GROUPED)
    folder = tmp_path_factory.mktemp("fused")
    weights = {name: ir.tensor(v.numpy(), name=name) for name, v in made.module.source.state_dict().items()}
    model, _ = (canonical() | FuseAttention()).run(TorchSource(made, weights).capture())
    with WeightFile(Path(folder) / "weights.bin") as file:
        to_onnx(model, folder / "model.onnx", file)
    return made, stock, OnnxRunner(folder / "model.onnx", 1)


def test_sample_and_outputs_fit_the_ports() -> None:
    assert_fits(backbone(GROUPED)[0])


def test_it_is_called_by_the_names_of_the_runtime() -> None:
    made, _ = backbone(replace(SMALL, layers=1))
    assert [p.name for p in made.inputs] == [
        "input_ids",
        "attention_mask",
        "past_key_values.0.key",
        "past_key_values.0.value",
    ]
    assert [p.name for p in made.outputs] == ["logits", "present.0.key", "present.0.value"]


@pytest.mark.parametrize(("sequence", "past"), [(4, 0), (1, 5), (3, 2)])
def test_without_padding_positions_and_mask_are_the_hosts(sequence: int, past: int) -> None:
    tokens = torch.zeros(2, sequence, dtype=torch.int64)
    places, mask = positions_and_mask(tokens, torch.ones(2, past + sequence, dtype=torch.int64))
    np.testing.assert_array_equal(places.numpy(), np.repeat(positions(sequence, past), 2, axis=0))
    np.testing.assert_array_equal(mask.numpy(), np.repeat(causal_mask(sequence, past), 2, axis=0))
    assert mask.dtype == torch.float32


@pytest.mark.parametrize("sizes", [SMALL, GROUPED])
@pytest.mark.parametrize("padding", [0, 2])
def test_prefill_then_decode_equals_the_library(
    sizes: LlamaSizes, padding: int, rng: np.random.Generator
) -> None:
    made, stock = backbone(sizes)
    tokens = rng.integers(0, sizes.vocabulary, (1, 7))
    seen = np.ones((1, 7), np.int64)
    seen[:, :padding] = 0
    got: list[np.ndarray] = []
    past: dict[str, np.ndarray] = {}
    for first, last in ((0, 4), (4, 5), (5, 7)):
        past = eager(made, inputs(made, tokens[:, first:last], seen[:, :last], past))
        got.append(past["logits"])
    wanted = scores(stock, tokens, seen)
    assert difference(wanted[:, padding:], np.concatenate(got, axis=1)[:, padding:]).max_relative < 1e-5


@pytest.mark.parametrize("padding", [0, 2])
def test_the_artifact_reads_no_more_of_a_cache_than_is_in_it(
    fused: tuple[Graph, LlamaForCausalLM, OnnxRunner], padding: int, rng: np.random.Generator
) -> None:
    made, stock, runner = fused
    tokens = rng.integers(0, GROUPED.vocabulary, (1, 6))
    seen = np.ones((1, 6), np.int64)
    seen[:, :padding] = 0
    wanted = scores(stock, tokens, seen)
    first = runner.run(inputs(made, tokens[:, :5], seen[:, :5], {}))
    assert difference(wanted[:, padding:5], first["logits"][:, padding:]).within("float32")
    junk = {
        name: np.concatenate((value, np.full((1, 2, 9, 16), 7, np.float32)), axis=2)
        for name, value in first.items()
        if name != "logits"
    }
    for past in (first, junk):
        last = runner.run(inputs(made, tokens[:, 5:], seen, past))
        assert difference(wanted[:, 5:], last["logits"]).within("float32")


def test_the_dialect_has_this_graph_and_any_other_the_two() -> None:
    submodel = build("backbone", replace(SMALL, layers=1))
    assert [g.name for g in submodel.graphs_for("genai")] == ["backbone/model"]
    for dialect in ("", "standard", "ort"):
        assert [g.name for g in submodel.graphs_for(dialect)] == ["backbone/embed", "backbone/decoder"]


def test_a_sub_model_without_such_a_graph_keeps_its_own() -> None:
    submodel = build("projection", PRESETS["m4-nano"]["projection"])
    assert [g.name for g in submodel.graphs_for("genai")] == ["projection/linear"]
