from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m4c.errors import UsageError
from m4c.host.masks import HIDDEN, causal_mask, positions
from m4c.models.graph import Submodel
from m4c.models.tts import PRESETS, TtsSizes, build
from m4c.models.tts_layers import TtsTransformer, sinusoids
from m4c.models.tts_sizes import PAD
from m4c.numerics import difference
from m4c.skeleton import skeleton
from tests.models.onnx_session import Session, assert_fits, eager, graph, shake

NANO = PRESETS["m4-nano"]["tts_dec"]
USED = 11
"""Phonemes of the test utterance; the static graph takes 16."""


@pytest.fixture(scope="module")
def submodel() -> Submodel:
    torch.manual_seed(0)
    made = build("tts_dec", NANO)
    shake(made.source)
    return made


@pytest.fixture
def phonemes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(4, NANO.symbols, (1, USED))


def padded(phonemes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the encoder's inputs, padded to its static length."""
    keep = (np.arange(NANO.length) < phonemes.shape[1]).astype(np.float32)[None, None]
    ids = np.pad(phonemes, ((0, 0), (0, NANO.length - phonemes.shape[1])), constant_values=PAD)
    return {"phonemes": ids, "keep": keep, "mask": np.where(keep[:, None] > 0, np.float32(0), HIDDEN)}


def attention_into(target: nn.MultiheadAttention, source: Mapping[str, Tensor], prefix: str) -> None:
    """Copy q, k, v and output projections into torch's packed attention."""
    for kind in ("weight", "bias"):
        packed = torch.cat([source[f"{prefix}.{part}_proj.{kind}"] for part in "qkv"])
        getattr(target, f"in_proj_{kind}").copy_(packed)
        getattr(target.out_proj, kind).copy_(source[f"{prefix}.out_proj.{kind}"])


def torch_layer(kind: type[nn.Module], state: Mapping[str, Tensor], prefix: str) -> nn.Module:
    """Return torch's own pre-norm transformer layer with the weights under ``prefix``."""
    layer: nn.Module = kind(NANO.width, NANO.heads, NANO.ffn, dropout=0, batch_first=True, norm_first=True)
    decoder = isinstance(layer, nn.TransformerDecoderLayer)
    norms = ["self_attn_layer_norm", *(["encoder_attn_layer_norm"] if decoder else []), "final_layer_norm"]
    names = {"fc1": "linear1", "fc2": "linear2"} | {norm: f"norm{i + 1}" for i, norm in enumerate(norms)}
    with torch.no_grad():
        attention_into(layer.get_submodule("self_attn"), state, f"{prefix}.self_attn")  # type: ignore[arg-type]
        if decoder:
            attention_into(layer.get_submodule("multihead_attn"), state, f"{prefix}.encoder_attn")  # type: ignore[arg-type]
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                layer.get_parameter(f"{theirs}.{part}").copy_(state[f"{prefix}.{ours}.{part}"])
    return layer.eval()


def reference_positions(steps: int) -> Tensor:
    """Return fairseq's sinusoids one value at a time: position ``step`` counts from the padding id + 1."""
    half = NANO.width // 2
    rows = [[(PAD + 1 + s) / 10000 ** (i / (half - 1)) for i in range(half)] for s in range(steps)]
    return torch.tensor([[*map(np.sin, row), *map(np.cos, row)] for row in rows], dtype=torch.float32)


def reference_encoder(source: TtsTransformer, phonemes: Tensor) -> Tensor:
    """Encode an utterance without padding, with torch's layers."""
    encoder, state = source.encoder, source.state_dict()
    x = nn.functional.embedding(phonemes, state["encoder.embed_tokens.weight"]).transpose(1, 2)
    for convolution in encoder.prenet:
        x = convolution(x)
    x = encoder.prenet_proj(x.transpose(1, 2))
    x = x + state["encoder.pos_emb_alpha"] * reference_positions(phonemes.shape[1])
    for i in range(NANO.layers):
        x = torch_layer(nn.TransformerEncoderLayer, state, f"encoder.transformer_layers.{i}")(x)
    normed: Tensor = encoder.layer_norm(x)
    return normed


def reference_decoder(source: TtsTransformer, states: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Decode all frames at once, with torch's layers and a causal mask."""
    decoder, state = source.decoder, source.state_dict()
    x = decoder.prenet(frames) + state["decoder.pos_emb_alpha"] * reference_positions(frames.shape[1])
    causal = nn.Transformer.generate_square_subsequent_mask(frames.shape[1])
    for i in range(NANO.layers):
        layer = torch_layer(nn.TransformerDecoderLayer, state, f"decoder.transformer_layers.{i}")
        x = layer(x, states, tgt_mask=causal, tgt_is_causal=True)
    x = decoder.layer_norm(x)
    return decoder.feat_proj(x), decoder.eos_proj(x)


def test_m4_has_the_stated_parameters() -> None:
    sizes = PRESETS["m4"]["tts_dec"]
    with skeleton():
        source = build("tts_dec", sizes).source
    assert isinstance(source, TtsTransformer)
    postnet = sum(p.numel() for p in source.decoder.postnet.parameters())
    assert postnet == 5_577_664
    assert sum(p.numel() for p in source.encoder.parameters()) == 23_114_753 + 512 * 75
    assert sum(p.numel() for p in source.decoder.parameters()) == 25_669_442 + postnet
    assert sum(p.numel() for p in source.parameters()) == 54_361_859 + 512 * sizes.symbols


def test_keys_are_those_of_fairseq() -> None:
    with skeleton():
        state = build("tts_dec", TtsSizes(layers=1)).source.state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    both = ("weight", "bias")
    parts: dict[str, tuple[str, ...]] = {"encoder.embed_tokens": ("weight",)}
    for i in range(3):
        parts |= {f"encoder.prenet.{i}.0": both, f"encoder.prenet.{i}.1": norm}
    for i in range(5):
        parts |= {f"decoder.postnet.convolutions.{i}.0": both, f"decoder.postnet.convolutions.{i}.1": norm}
    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        layer = f"{side}.transformer_layers.0"
        for attention in attentions:
            parts |= {f"{layer}.{attention}.{p}_proj": both for p in ("k", "v", "q", "out")}
            parts |= {f"{layer}.{attention}_layer_norm": both}
        parts |= {f"{layer}.{part}": both for part in ("fc1", "fc2", "final_layer_norm")}
        parts |= {f"{side}.layer_norm": both}
    single = (
        "encoder.prenet_proj",
        "decoder.prenet.0.layers.0.0",
        "decoder.prenet.0.layers.1.0",
        "decoder.prenet.1",
    )
    parts |= dict.fromkeys((*single, "decoder.feat_proj", "decoder.eos_proj"), both)
    expected = {f"{module}.{kind}" for module, kinds in parts.items() for kind in kinds}
    assert set(state) == expected | {"encoder.pos_emb_alpha", "decoder.pos_emb_alpha"}
    assert state["decoder.prenet.0.layers.0.0.weight"].shape == (256, 320)
    assert state["decoder.postnet.convolutions.4.0.weight"].shape == (320, 512, 5)


@pytest.mark.parametrize("name", ["encoder", "cross", "decoder", "postnet"])
def test_samples_and_outputs_fit_the_ports(submodel: Submodel, name: str) -> None:
    assert_fits(graph(submodel, name))


def test_positions_are_those_of_fairseq() -> None:
    torch.testing.assert_close(sinusoids(20, NANO.width), reference_positions(20), rtol=0, atol=2e-5)


def test_padding_changes_no_state(submodel: Submodel, phonemes: np.ndarray) -> None:
    assert isinstance(submodel.source, TtsTransformer)
    with torch.no_grad():
        alone = reference_encoder(submodel.source, torch.from_numpy(phonemes)).numpy()
    states = eager(graph(submodel, "encoder"), padded(phonemes))["states"]
    assert difference(alone, states[:, :USED]).max_relative < 1e-5


def test_padding_changes_no_spectrogram(submodel: Submodel, rng: np.random.Generator) -> None:
    assert isinstance(submodel.source, TtsTransformer)
    features = rng.standard_normal((1, NANO.steps, NANO.features)).astype(np.float32)
    keep = (np.arange(NANO.steps) < USED).astype(np.float32)[None, None]
    mel = eager(graph(submodel, "postnet"), {"features": features, "keep": keep})["mel"]
    alone = torch.from_numpy(features[:, :USED])
    x = alone.transpose(1, 2)
    with torch.no_grad():
        for layer in submodel.source.decoder.postnet.convolutions:
            x = layer(x)
    assert difference((alone + x.transpose(1, 2)).numpy(), mel[:, :USED]).max_relative < 1e-5


def test_speaks_in_onnx_like_torchs_own_layers(
    submodel: Submodel, phonemes: np.ndarray, rng: np.random.Generator
) -> None:
    assert isinstance(submodel.source, TtsTransformer)
    sessions = {name: Session(graph(submodel, name)) for name in ("encoder", "cross", "decoder", "postnet")}
    inputs = padded(phonemes)
    cross = sessions["cross"](sessions["encoder"](inputs))
    frames = rng.standard_normal((1, 5, NANO.features)).astype(np.float32)
    empty = np.zeros((1, NANO.heads, 0, NANO.head_dim), np.float32)
    names = [f"{part}_{i}" for i in range(NANO.layers) for part in ("key", "value")]
    made, past = [], {f"present_{name}": empty for name in names}
    for first, last in ((0, 4), (4, 5)):
        step = {
            "frames": frames[:, first:last],
            "positions": positions(last - first, first),
            "mask": causal_mask(last - first, first),
            "cross_mask": inputs["mask"],
            **{f"past_{name}": past[f"present_{name}"] for name in names},
        }
        past = sessions["decoder"]({**step, **cross})
        made.append(past)
    with torch.no_grad():
        states = reference_encoder(submodel.source, torch.from_numpy(phonemes))
        wanted = reference_decoder(submodel.source, states, torch.from_numpy(frames))
    for name, want in zip(("features", "stop"), wanted, strict=True):
        got = np.concatenate([m[name] for m in made], axis=1)
        assert difference(want.numpy(), got).within("float32")
    postnet = graph(submodel, "postnet")
    mel = postnet.sample(rng, postnet.sizes)
    assert difference(eager(postnet, mel)["mel"], sessions["postnet"](mel)["mel"]).within("float32")
    attention = {"Add", "MatMul", "Reshape", "Transpose"}
    layer = attention | {"Gather", "LayerNormalization", "Mul", "Relu", "Softmax"}
    # batch normalisation is gone: the optimizer folds it into Conv where weights are in memory
    assert {name: session.operators for name, session in sessions.items()} == {
        "encoder": layer | {"Conv"},
        "cross": attention,
        "decoder": layer | {"Concat"},
        "postnet": {"Add", "Conv", "Mul", "Tanh", "Transpose"},
    }


@pytest.mark.parametrize("change", [{"heads": 3}, {"kernel": 4}])
def test_refuses_sizes_that_do_not_fit(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="do not fit together") as error:
        TtsSizes(**change)  # type: ignore[arg-type]
    assert error.value.fix
