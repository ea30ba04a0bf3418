"""LLaMA folders as backbones: m4c/models/__init__.py, the sizes from config.json, quantized weights to logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import LlamaForCausalLM

from m4c.blockwise import BlockwiseWeight
from m4c.checkpoints import open_checkpoint
from m4c.eager import run_eager
from m4c.errors import CheckpointError, UsageError
from m4c.host.masks import causal_mask, positions
from m4c.match import match
from m4c.models import build
from m4c.models.graph import Submodel
from m4c.models.llama_sizes import NANO
from m4c.numerics import difference
from m4c.skeleton import skeleton
from m4c.weights import Recipe, array
from tests.checkpoints.packing import Made, awq, awq_settings, gptq, gptq_settings, made, put
from tests.models.onnx_session import graph

Tensors = dict[str, np.ndarray]
SIZES = replace(NANO, vocabulary=96, ffn=128, kv_heads=2, max_positions=32)


def configuration(**change: object) -> dict[str, Any]:
    """Return a ``config.json`` as the library writes it."""
    config = SIZES.to_library()
    config.architectures = ["LlamaForCausalLM"]
    return {**json.loads(config.to_json_string(use_diff=False)), **change}


def folder_of(path: Path, **change: object) -> Path:
    """Write a folder that holds a configuration alone."""
    (path / "config.json").write_text(json.dumps(configuration(**change)))
    return path


def shapes(submodel: Submodel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a sub-model's weights."""
    return {name: tuple(tensor.shape) for name, tensor in submodel.source.state_dict().items()}


def quantized(rng: np.random.Generator, method: str, desc_act: bool) -> tuple[Tensors, Tensors]:
    """Return a tiny LLaMA's tensors, its layers' matrices packed, and the plain tensors they stand for."""
    torch.manual_seed(0)
    stock = LlamaForCausalLM(SIZES.to_library())
    packed: Tensors = {}
    plain: Tensors = {}
    for key, tensor in stock.state_dict().items():
        if not key.endswith("_proj.weight"):
            packed[key] = plain[key] = tensor.numpy()
            continue
        name = key.removesuffix(".weight")
        matrix: Made = made(rng, tensor.shape[1], tensor.shape[0], 32, desc_act=desc_act)
        packed |= gptq(name, matrix) if method == "gptq" else awq(name, matrix)
        plain[key] = matrix.values()
    return packed, plain


def reference(plain: Tensors, tokens: np.ndarray) -> np.ndarray:
    """Return the library's logits."""
    stock = LlamaForCausalLM(SIZES.to_library()).eval()
    stock.load_state_dict({name: torch.from_numpy(held) for name, held in plain.items()}, strict=True)
    with torch.no_grad():
        logits: np.ndarray = stock(torch.from_numpy(tokens)).logits.numpy()
    return logits


@pytest.mark.parametrize(("method", "desc_act"), [("gptq", False), ("gptq", True), ("awq", False)])
def test_a_quantized_folder_gives_the_library_s_logits(
    method: str, desc_act: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    packed, plain = quantized(rng, method, desc_act)
    settings = gptq_settings(desc_act=desc_act) if method == "gptq" else awq_settings()
    folder = put(tmp_path, packed, settings, **configuration())
    with skeleton():
        backbone = build("backbone", "m4-nano", folder)
        head = build("gen_dec", "m4-nano", folder)
    weights = match(backbone, open_checkpoint(folder))
    matrices = [name for name in weights if name.endswith("_proj.weight")]
    assert len(matrices) == 7 * SIZES.layers
    for name in matrices:
        tensor = weights[name]
        assert isinstance(tensor, Recipe)
        assert isinstance(tensor.origin, BlockwiseWeight)
    tokens = rng.integers(0, SIZES.vocabulary, (1, 7))
    embeds = run_eager(graph(backbone, "embed"), weights, {"tokens": tokens})["embeds"]
    empty = np.zeros((1, SIZES.kv_heads, 0, SIZES.head_dim), np.float32)
    decoder = graph(backbone, "decoder")
    pasts = {port.name: empty for port in decoder.inputs if port.name.startswith("past_")}
    inputs = {"embeds": embeds, "positions": positions(7, 0), "mask": causal_mask(7, 0), **pasts}
    made_here = run_eager(decoder, weights, inputs)
    expected = reference(plain, tokens)
    assert difference(expected, made_here["logits"]).max_relative < 1e-5
    scored = run_eager(
        graph(head, "head"), match(head, open_checkpoint(folder)), {"hidden": made_here["hidden"][:, -1]}
    )
    assert difference(expected[:, -1], scored["logits"]).max_relative < 1e-5


def test_sizes_come_from_the_folder(tmp_path: Path) -> None:
    with skeleton():
        backbone = build("backbone", "m4", folder_of(tmp_path))
        head = build("gen_dec", "m4", tmp_path)
        projection = build("projection", "m4-nano", tmp_path)
    assert shapes(backbone)["lm_head.weight"] == (SIZES.vocabulary, SIZES.width)
    assert {name.split(".")[2] for name in shapes(backbone) if ".layers." in name} == {"0", "1"}
    assert shapes(head) == {"lm_head.weight": (SIZES.vocabulary, SIZES.width)}
    assert shapes(projection)["linear.weight"] == (NANO.width, 64)


def test_the_preset_s_sizes_where_nothing_is_stated(tmp_path: Path) -> None:
    save_file({"w": np.zeros(1)}, tmp_path / "m.safetensors")
    with skeleton():
        for weights in (None, tmp_path, tmp_path / "m.safetensors", tmp_path / "none"):
            assert shapes(build("gen_dec", "m4-nano", weights)) == {
                "lm_head.weight": (NANO.vocabulary, NANO.width)
            }


def test_another_sub_model_s_configuration_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with skeleton():
        assert build("aud_i_enc", "m4-nano", tmp_path).name == "aud_i_enc"


def test_a_head_that_is_the_embedding(tmp_path: Path, rng: np.random.Generator) -> None:
    table = rng.standard_normal((SIZES.vocabulary, SIZES.width)).astype(np.float32)
    save_file({"model.embed_tokens.weight": table}, tmp_path / "m.safetensors")
    folder = folder_of(tmp_path, tie_word_embeddings=True)
    with skeleton():
        head = build("gen_dec", "m4-nano", folder)
    weights = match(head, open_checkpoint(folder))
    hidden = rng.standard_normal((1, SIZES.width)).astype(np.float32)
    logits = run_eager(graph(head, "head"), weights, {"hidden": hidden})["logits"]
    np.testing.assert_allclose(logits, hidden @ table.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures is"),
        ({"architectures": "LlamaForCausalLMx"}, "architectures is"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "architectures is"),
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"vocab_size": 1 << 60}, "the sizes make"),
        ({"hidden_size": 1 << 60, "head_dim": 16}, "the sizes make"),
        ({"intermediate_size": 1 << 40}, "the sizes make"),
        ({"num_hidden_layers": 1 << 60}, "num_hidden_layers is"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"intermediate_size": -3}, "intermediate_size is -3"),
        ({"max_position_embeddings": 1 << 60}, "max_position_embeddings is"),
        ({"head_dim": 15}, "transformers refuses"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1"),
        ({"vocab_size": None}, "lacks vocab_size"),
    ],
)
def test_a_configuration_that_no_model_has(change: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **change)
    for name in ("backbone", "gen_dec"):
        with pytest.raises(CheckpointError, match=message) as caught:
            build(name, "m4-nano", folder)
        assert caught.value.where == str(folder / "config.json")
        assert caught.value.fix
        assert caught.value.exit_code == 2


def test_a_configuration_that_no_graph_expresses(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, num_key_value_heads=3)
    with pytest.raises(UsageError, match="do not share 3") as caught:
        build("backbone", "m4-nano", folder)
    assert caught.value.where == str(folder / "config.json")


def test_a_configuration_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not a readable JSON file"):
        build("backbone", "m4-nano", tmp_path)


def test_more_layers_than_the_checkpoint_has(tmp_path: Path) -> None:
    stock = LlamaForCausalLM(SIZES.to_library())
    save_file({n: t.numpy() for n, t in stock.state_dict().items()}, tmp_path / "m.safetensors")
    folder = folder_of(tmp_path, num_hidden_layers=SIZES.layers + 1)
    with skeleton():
        backbone = build("backbone", "m4-nano", folder)
    with pytest.raises(CheckpointError, match="9 tensors missing from the checkpoint") as caught:
        match(backbone, open_checkpoint(folder))
    assert "model.layers.2.input_layernorm.weight" in caught.value.what


def test_a_folder_as_the_library_saves_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stock = LlamaForCausalLM(SIZES.to_library())
    stock.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    with skeleton():
        backbone = build("backbone", "m4", tmp_path)
    weights = match(backbone, open_checkpoint(tmp_path))
    for name, tensor in stock.state_dict().items():
        np.testing.assert_array_equal(array(weights[name]), tensor.numpy())
