import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from m4c.host.masks import causal_mask, positions
from m4c.models import PRESETS as ALL_PRESETS
from m4c.models import build as build_any
from m4c.models import require_submodel
from m4c.models.graph import Submodel
from m4c.models.whisper import PRESETS, build, decoding_facts
from m4c.numerics import difference
from m4c.skeleton import skeleton
from tests.models.onnx_session import Session, assert_fits, eager, graph, shake

NANO = PRESETS["m4-nano"]["aud_i_enc"]
Feeds = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def submodel() -> Submodel:
    torch.manual_seed(0)
    made = build("aud_i_enc", NANO)
    shake(made.source)
    return made


@pytest.fixture(scope="module")
def decoder(submodel: Submodel) -> Session:
    return Session(graph(submodel, "decoder"))


@pytest.fixture
def mel(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (1, NANO.mels, NANO.frames)).astype(np.float32)


def cross_of(submodel: Submodel, mel: np.ndarray) -> Feeds:
    states = eager(graph(submodel, "encoder"), {"mel": mel})["states"]
    return eager(graph(submodel, "cross"), {"states": states})


def call(decoder: Any, tokens: np.ndarray, past: Feeds, cross: Feeds) -> Feeds:
    """Decode one stretch of tokens after ``past``."""
    before, count = past["past_key_0"].shape[2], tokens.shape[1]
    step = {"tokens": tokens, "positions": positions(count, before), "mask": causal_mask(count, before)}
    made: Feeds = decoder({**step, **past, **cross})
    return made


def empty() -> Feeds:
    shape = (1, NANO.heads, 0, NANO.head_dim)
    return {
        f"past_{part}_{i}": np.zeros(shape, np.float32)
        for i in range(NANO.decoder_layers)
        for part in ("key", "value")
    }


def grown(made: Feeds) -> Feeds:
    return {n.replace("present", "past"): v for n, v in made.items() if n.startswith("present")}


def whole(submodel: Submodel, mel: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the scores that transformers computes for all tokens at once."""
    source = submodel.source
    assert isinstance(source, WhisperForConditionalGeneration)
    with torch.no_grad():
        logits = source(torch.from_numpy(mel), decoder_input_ids=torch.from_numpy(tokens)).logits
    return np.asarray(logits)


@pytest.mark.parametrize("name", ["encoder", "cross", "decoder"])
def test_samples_and_outputs_fit_the_ports(name: str, submodel: Submodel) -> None:
    assert_fits(graph(submodel, name))


def test_the_three_graphs_are_the_model(
    submodel: Submodel, mel: np.ndarray, rng: np.random.Generator
) -> None:
    tokens = rng.integers(0, NANO.vocabulary, (1, 7))
    made = call(
        lambda feeds: eager(graph(submodel, "decoder"), feeds), tokens, empty(), cross_of(submodel, mel)
    )
    assert difference(whole(submodel, mel, tokens), made["logits"]).max_relative < 1e-5


@pytest.mark.parametrize("name", ["encoder", "cross"])
def test_onnx_runtime_computes_what_torch_does(
    name: str, submodel: Submodel, rng: np.random.Generator
) -> None:
    one = graph(submodel, name)
    inputs = one.sample(rng, one.sizes)
    found, expected = Session(one)(inputs), eager(one, inputs)
    for output, values in expected.items():
        assert difference(values, found[output]).max_relative < 1e-4


def test_one_decoder_serves_prefill_and_decoding(
    submodel: Submodel, decoder: Session, mel: np.ndarray, rng: np.random.Generator
) -> None:
    tokens = rng.integers(0, NANO.vocabulary, (1, 9))
    expected, cross = whole(submodel, mel, tokens), cross_of(submodel, mel)
    made = call(decoder, tokens[:, :4], empty(), cross)
    assert difference(expected[:, :4], made["logits"]).max_relative < 1e-4
    for start, stop in ((4, 5), (5, 6), (6, 9)):  # a token at a time, then several
        made = call(decoder, tokens[:, start:stop], grown(made), cross)
        assert made["present_key_0"].shape == (1, NANO.heads, stop, NANO.head_dim)
        assert difference(expected[:, start:stop], made["logits"]).max_relative < 1e-4
    single = call(decoder, tokens[:, :1], empty(), cross)
    assert difference(expected[:, :1], single["logits"]).max_relative < 1e-4


def test_the_mask_hides(decoder: Session, rng: np.random.Generator, submodel: Submodel) -> None:
    one = graph(submodel, "decoder")
    inputs = one.sample(rng, one.sizes)
    other = {
        **inputs,
        "past_key_0": inputs["past_key_0"].copy(),
        "past_value_0": inputs["past_value_0"].copy(),
    }
    for name in ("past_key_0", "past_value_0"):
        other[name][:, :, 0] += 5
    hidden = inputs["mask"].copy()
    hidden[..., 0] = -1e9
    first, second = (decoder({**feeds, "mask": hidden})["logits"] for feeds in (inputs, other))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(decoder(inputs)["logits"], decoder(other)["logits"])


def test_what_the_host_is_told(submodel: Submodel) -> None:
    assert graph(submodel, "encoder").inputs[0].host == {
        "kind": "log-mel", "sample_rate": 16000, "bins": 80, "frames": 200,
    }  # fmt: skip
    nano = graph(submodel, "decoder").inputs[0].host
    assert (nano["kind"], nano["start"], nano["end"]) == ("bytes", [256], 257)
    assert "asset" not in nano
    with skeleton():
        real = graph(build_any("aud_i_enc", "m4"), "decoder").inputs[0].host
    assert (real["kind"], real["asset"]) == ("json-tokenizer", "tokenizer.json")
    assert (real["start"], real["end"], real["max_tokens"], real["first_timestamp"]) == (
        [50257, 50362], 50256, 448, 50363,
    )  # fmt: skip


def test_m4_has_the_size_of_tiny_en() -> None:
    with skeleton():
        source = build_any("aud_i_enc", "m4").source
    assert sum(p.numel() for p in source.parameters()) == 37_760_256  # the published checkpoint


def test_layers_may_differ_between_encoder_and_decoder() -> None:
    with skeleton():
        made = build("aud_i_enc", replace(NANO, encoder_layers=1, decoder_layers=3))
    assert len(graph(made, "cross").outputs) == 6
    assert len(graph(made, "decoder").inputs) == 3 + 12


@pytest.mark.parametrize(
    ("file", "content", "facts"),
    [
        ("generation_config.json", {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3]}, ([1, 2], [3])),
        ("generation_config.json", {"suppress_tokens": None}, ([], [])),
        ("config.json", {"suppress_ids": [-1], "suppress_ids_begin": [220, 50256]}, ([], [220, 50256])),
    ],
)
def test_tokens_never_to_choose(file: str, content: object, facts: object, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    found = decoding_facts(tmp_path)
    assert (found["suppress"], found["suppress_at_first"]) == facts


def test_a_folder_that_tells_nothing(tmp_path: Path) -> None:
    assert decoding_facts(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 3}))
    assert decoding_facts(tmp_path) == {}


def test_listing() -> None:
    assert require_submodel("aud_i_enc").module == "whisper"
    assert set(PRESETS) == set(ALL_PRESETS)
