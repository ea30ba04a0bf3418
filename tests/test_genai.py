"""Bundles for onnxruntime-genai: the files beside the model, and what that runtime generates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime_genai as og
import pytest

from m4c.bundle import read_manifest
from m4c.compile import compile_bundle
from m4c.errors import UsageError
from m4c.genai import genai_config, write_genai
from m4c.models.llama_sizes import LlamaSizes
from m4c.progress import Silent
from m4c.request import Request
from m4c.routes.generate import generate
from m4c.targets.profile import load_target

MODEL = "graphs/backbone/model.onnx"
TRAINED = Path(__file__).parent / "assets" / "tiny_llama"


def test_the_configuration_states_the_sizes(tmp_path: Path) -> None:
    sizes = LlamaSizes(
        vocabulary=7, width=6, layers=5, heads=4, kv_heads=2, head_dim=3, max_positions=99, begin=8, end=(9,)
    )
    write_genai(tmp_path, sizes, MODEL, None)
    read = json.loads((tmp_path / "genai_config.json").read_text("utf-8"))
    model, decoder = read["model"], read["model"]["decoder"]
    assert {k: v for k, v in model.items() if k != "decoder"} == {
        "type": "llama", "bos_token_id": 8, "eos_token_id": 9, "pad_token_id": 9, "context_length": 99, "vocab_size": 7,
    }  # fmt: skip
    assert {k: v for k, v in decoder.items() if isinstance(v, int | str)} == {
        "filename": MODEL, "hidden_size": 6, "head_size": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 5,
    }  # fmt: skip
    assert read["search"]["max_length"] == 99
    assert read["search"]["do_sample"] is False


def test_a_shorter_context_is_stated() -> None:
    made: Any = genai_config(replace(LlamaSizes(), context=64), MODEL)
    assert (made["model"]["context_length"], made["search"]["max_length"]) == (64, 64)


def test_several_end_tokens_are_a_list() -> None:
    made: Any = genai_config(LlamaSizes(end=(4, 5)), MODEL)
    assert (made["model"]["eos_token_id"], made["model"]["pad_token_id"]) == ([4, 5], 4)


def test_caches_are_shared_where_attention_is_fused() -> None:
    for size, shared in ((16, True), (128, True), (24, False)):
        made: Any = genai_config(LlamaSizes(head_dim=size), MODEL)
        assert made["search"]["past_present_share_buffer"] is shared


def test_the_tokenizer_is_copied_as_far_as_it_is_there(tmp_path: Path) -> None:
    weights, bundle = tmp_path / "weights", tmp_path / "bundle"
    weights.mkdir()
    bundle.mkdir()
    names = ["chat_template.jinja", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        (weights / name).write_text(name, "utf-8")
    written = write_genai(bundle, LlamaSizes(), MODEL, weights)
    assert sorted(file.path for file in written) == sorted(["genai_config.json", *names])
    assert all((bundle / name).read_text("utf-8") == name for name in names)
    for name in names:
        (weights / name).unlink()
    assert [file.path for file in write_genai(bundle, LlamaSizes(), MODEL, weights)] == ["genai_config.json"]


def test_half_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(UsageError, match=r"only beside tokenizer_config.json, which is missing"):
        write_genai(tmp_path, LlamaSizes(), MODEL, tmp_path)


def generated(
    folder: Path, prompt: str, count: int, search: dict[str, object]
) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt and of what the runtime itself generates, its tokenizer included."""
    settings = og.Config(str(folder))
    settings.overlay(json.dumps({"search": search}))
    model = og.Model(settings)
    tokenizer = og.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="true")  # without it, no start token
    given = [int(i) for i in tokenizer.encode(prompt)]
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(given) + count)
    generator = og.Generator(model, parameters)
    generator.append_tokens(given)
    while not generator.is_done():
        generator.generate_next_token()
    return given, [int(i) for i in generator.get_sequence(0)][len(given) :]


@pytest.fixture(scope="module", params=["float32", "float16"])
def bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Return a bundle of a trained model, its caches stored in either type."""
    out = tmp_path_factory.mktemp("genai") / "bundle"
    wanted = Request(
        target=load_target("cpu"),
        submodels=("backbone",),
        weights=TRAINED,
        dialect="genai",
        context_length=128,
        cache_type=request.param,
    )
    compile_bundle(wanted, out, Silent())
    return out


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("prompt", ["If the object is not", "A class"])
def test_the_runtime_generates_the_same_tokens(bundle: Path, prompt: str, shared: bool) -> None:
    ours = generate(bundle, read_manifest(bundle), prompt, 48)
    given, theirs = generated(bundle, prompt, 48, {"past_present_share_buffer": shared})
    assert tuple(given) == ours.prompt
    assert theirs == list(ours.tokens)
    assert len(set(theirs)) > 8


def test_the_context_is_that_of_the_bundle(bundle: Path) -> None:
    model = json.loads((bundle / "genai_config.json").read_text("utf-8"))
    assert (model["model"]["context_length"], model["search"]["max_length"]) == (128, 128)
    with pytest.raises(RuntimeError, match="context_length"):
        generated(bundle, "A class", 128, {})
