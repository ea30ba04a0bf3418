import math
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m4c.host.prepare import KINDS
from m4c.models.graph import Graph, Submodel
from m4c.models.imagebind import NANO_EMBEDDING, PRESETS, build
from m4c.models.imagebind_encoder import Attention, Block, ImageBindConfig
from m4c.models.imagebind_stems import AudioStem, ImageStem, ImuStem, TextStem
from m4c.numerics import difference
from tests.models.onnx_session import Session, assert_fits, eager, shake

NAMES = ("img_enc", "txt_enc", "aud_b_enc", "imu_enc")
ENTRIES = {"img_enc": 392, "txt_enc": 295, "aud_b_enc": 177, "imu_enc": 93}
PARAMETERS = {"img_enc": 632829440, "txt_enc": 354032641, "aud_b_enc": 86235648, "imu_enc": 19600384}

OUTSIDE_BLOCKS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "img_enc": {
        "modality_preprocessors.vision.cls_token": (1, 1, 1280),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, 257, 1280),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (1280,),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (1280,),
        "modality_heads.vision.0.weight": (1280,),
        "modality_heads.vision.0.bias": (1280,),
        "modality_heads.vision.2.weight": (1024, 1280),
    },
    "txt_enc": {
        "modality_preprocessors.text.token_embedding.weight": (49408, 1024),
        "modality_preprocessors.text.pos_embed": (1, 77, 1024),
        "modality_preprocessors.text.mask": (77, 77),
        "modality_heads.text.proj.0.weight": (1024,),
        "modality_heads.text.proj.0.bias": (1024,),
        "modality_heads.text.proj.1.weight": (1024, 1024),
        "modality_postprocessors.text.1.log_logit_scale": (),
    },
    "aud_b_enc": {
        "modality_preprocessors.audio.cls_token": (1, 1, 768),
        "modality_preprocessors.audio.rgbt_stem.proj.weight": (768, 1, 16, 16),
        "modality_preprocessors.audio.rgbt_stem.norm_layer.weight": (768,),
        "modality_preprocessors.audio.rgbt_stem.norm_layer.bias": (768,),
        "modality_preprocessors.audio.pos_embedding_helper.pos_embed": (1, 229, 768),
        "modality_heads.audio.0.weight": (768,),
        "modality_heads.audio.0.bias": (768,),
        "modality_heads.audio.2.weight": (1024, 768),
        "modality_postprocessors.audio.1.log_logit_scale": (),
    },
    "imu_enc": {
        "modality_preprocessors.imu.cls_token": (1, 1, 512),
        "modality_preprocessors.imu.pos_embed": (1, 251, 512),
        "modality_preprocessors.imu.imu_stem.proj.weight": (512, 48),
        "modality_preprocessors.imu.imu_stem.norm_layer.weight": (512,),
        "modality_preprocessors.imu.imu_stem.norm_layer.bias": (512,),
        "modality_heads.imu.0.weight": (512,),
        "modality_heads.imu.0.bias": (512,),
        "modality_heads.imu.3.weight": (1024, 512),
        "modality_postprocessors.imu.1.log_logit_scale": (),
    },
}


def published(name: str) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of one modality in the published checkpoint."""
    config = PRESETS["m4"][name]
    d = config.width
    expected = dict(OUTSIDE_BLOCKS[name])
    block: dict[str, tuple[int, ...]] = {
        **{f"norm_{i}.{part}": (d,) for i in (1, 2) for part in ("weight", "bias")},
        **{"attn.in_proj_weight": (3 * d, d), "attn.in_proj_bias": (3 * d,)},
        **{"attn.out_proj.weight": (d, d), "attn.out_proj.bias": (d,)},
        **{"mlp.fc1.weight": (4 * d, d), "mlp.fc1.bias": (4 * d,)},
        **{"mlp.fc2.weight": (d, 4 * d), "mlp.fc2.bias": (d,)},
    }
    if name in ("aud_b_enc", "imu_enc"):
        block |= {"attn.bias_k": (1, 1, d), "attn.bias_v": (1, 1, d)}
    for i in range(config.blocks):
        expected |= {
            f"modality_trunks.{config.modality}.blocks.{i}.{key}": shape for key, shape in block.items()
        }
    return expected


@pytest.mark.parametrize("name", NAMES)
def test_m4_is_imagebind_huge(name: str) -> None:
    with torch.device("meta"):
        source = build(name, PRESETS["m4"][name]).source
    state = {key: tuple(value.shape) for key, value in source.state_dict().items()}
    assert state == published(name)
    assert len(state) == ENTRIES[name]
    assert sum(p.numel() for p in source.parameters()) == PARAMETERS[name]


def test_buffers_have_the_published_values() -> None:
    audio, imu, text = (nano(name).source.state_dict() for name in ("aud_b_enc", "imu_enc", "txt_enc"))
    assert float(audio["modality_postprocessors.audio.1.log_logit_scale"]) == pytest.approx(2.9957, abs=1e-4)
    assert float(imu["modality_postprocessors.imu.1.log_logit_scale"]) == pytest.approx(1.6094, abs=1e-4)
    assert float(text["modality_postprocessors.text.1.log_logit_scale"]) == pytest.approx(2.6593, abs=1e-4)
    mask = text["modality_preprocessors.text.mask"]
    context = PRESETS["m4-nano"]["txt_enc"].stem.tokens
    assert torch.equal(mask, torch.full((context, context), -math.inf).triu(1))


def nano(name: str) -> Submodel:
    """A nano encoder with random weights."""
    torch.manual_seed(0)
    submodel = build(name, PRESETS["m4-nano"][name])
    with torch.no_grad():
        for key, parameter in submodel.source.named_parameters():
            if not key.endswith("log_logit_scale"):
                parameter.normal_(1.0 if parameter.dim() == 1 and key.endswith("weight") else 0.0, 0.15)
    return submodel


def sample(graph: Graph, batch: int = 1) -> dict[str, np.ndarray]:
    return graph.sample(np.random.default_rng(0), {"batch": batch})


class Reference:
    """ImageBind from the stock modules of torch, as the published code puts them together."""

    def __init__(self, config: ImageBindConfig, state: Mapping[str, Tensor]) -> None:
        self.config, self.state = config, state

    def get(self, key: str) -> Tensor:
        room, rest = key.split(".", 1)
        return self.state[f"modality_{room}.{self.config.modality}.{rest}"]

    def norm(self, x: Tensor, key: str, eps: float = 1e-6) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.get(f"{key}.weight"), self.get(f"{key}.bias"), eps)

    def block(self, i: int) -> nn.ModuleDict:
        c = self.config
        made = nn.ModuleDict(
            {
                "norm_1": nn.LayerNorm(c.width, 1e-6),
                "attn": nn.MultiheadAttention(c.width, c.heads, bias=True, add_bias_kv=c.bias_kv),
                "norm_2": nn.LayerNorm(c.width, 1e-6),
                "mlp": nn.ModuleDict(
                    {"fc1": nn.Linear(c.width, 4 * c.width), "fc2": nn.Linear(4 * c.width, c.width)}
                ),
            }
        )
        prefix = f"modality_trunks.{c.modality}.blocks.{i}."
        made.load_state_dict(
            {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        )
        return made.eval()

    def trunk(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.modality == "vision":
            x = self.norm(x, "trunks.pre_transformer_layer.0")
        x = x.transpose(0, 1)  # the published code runs sequence-first
        for i in range(self.config.blocks):
            b: dict[str, nn.Module] = dict(self.block(i).items())
            mlp = b["mlp"]
            y = b["norm_1"](x)
            x = x + b["attn"](y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + mlp.get_submodule("fc2")(F.gelu(mlp.get_submodule("fc1")(b["norm_2"](x))))
        return x.transpose(0, 1)

    def tokens(self, x: Tensor) -> Tensor:
        match self.config.stem:
            case ImageStem(patch=patch):
                film = x[:, :, None].repeat(1, 1, 2, 1, 1)
                kernel = self.get("preprocessors.rgbt_stem.proj.1.weight")
                return F.conv3d(film, kernel, stride=(2, patch, patch)).flatten(2).transpose(1, 2)
            case TextStem():
                return F.embedding(x, self.get("preprocessors.token_embedding.weight"))
            case AudioStem(stride=stride):
                kernel = self.get("preprocessors.rgbt_stem.proj.weight")
                patches = F.conv2d(x, kernel, stride=stride).flatten(2).transpose(1, 2)
                return self.norm(patches, "preprocessors.rgbt_stem.norm_layer", 1e-5)
            case ImuStem(window=window):
                windows = x.unfold(-1, window, window).permute(0, 2, 1, 3)
                flat = windows.reshape(x.shape[0], windows.shape[1], -1)
                projected = F.linear(flat, self.get("preprocessors.imu_stem.proj.weight"))
                return self.norm(projected, "preprocessors.imu_stem.norm_layer", 1e-5)

    def __call__(self, x: Tensor) -> Tensor:
        modality = self.config.modality
        if modality == "audio":
            clips = torch.stack([self.embed(clip) for clip in x.unbind(1)])
            return clips.mean(0)
        return self.embed(x)

    def embed(self, x: Tensor) -> Tensor:
        modality = self.config.modality
        helper = "pos_embedding_helper." if modality in ("vision", "audio") else ""
        tokens = self.tokens(x)
        if modality != "text":
            cls = self.get("preprocessors.cls_token").expand(len(x), -1, -1)
            tokens = torch.cat([cls, tokens], dim=1)
        mask = self.get("preprocessors.mask") if modality == "text" else None
        states = self.trunk(tokens + self.get(f"preprocessors.{helper}pos_embed"), mask)
        if modality == "text":
            picked = states[torch.arange(len(x)), x.argmax(-1)]
            head = F.linear(self.norm(picked, "heads.proj.0"), self.get("heads.proj.1.weight"))
        else:
            last = 3 if modality == "imu" else 2
            head = F.linear(self.norm(states, "heads.0"), self.get(f"heads.{last}.weight"))[:, 0]
        unit = F.normalize(head, dim=-1)
        if modality == "vision":
            return unit
        return unit * self.get("postprocessors.1.log_logit_scale").exp().clip(max=100)


@pytest.mark.parametrize("name", NAMES)
def test_follows_stock_torch_modules(name: str) -> None:
    submodel = nano(name)
    (graph,) = submodel.graphs
    inputs = sample(graph, batch=2)
    with torch.no_grad():
        expected = Reference(PRESETS["m4-nano"][name], submodel.source.state_dict())(
            torch.from_numpy(next(iter(inputs.values())))
        )
    actual = eager(graph, inputs)["embedding"]
    assert actual.shape == (2, NANO_EMBEDDING)
    assert difference(expected.numpy(), actual).max_relative < 2e-6


@pytest.mark.parametrize("bias_kv", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_multihead_attention(bias_kv: bool, masked: bool) -> None:
    torch.manual_seed(0)
    stock = nn.MultiheadAttention(24, 3, bias=True, add_bias_kv=bias_kv, batch_first=True).eval()
    shake(stock)
    ours = Attention(24, 3, bias_kv)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(2, 5, 24)
    mask = torch.randn(5, 5) if masked else None
    # torch masks the learned key with 0 itself; ours is told the whole mask.
    whole = F.pad(mask, (0, int(bias_kv))) if mask is not None else None
    with torch.no_grad():
        expected = stock(x, x, x, need_weights=False, attn_mask=mask)[0]
        torch.testing.assert_close(ours(x, whole), expected, rtol=1e-5, atol=1e-6)


def test_block_is_torchs_pre_norm_layer() -> None:
    torch.manual_seed(0)
    stock = nn.TransformerEncoderLayer(
        24, 3, 96, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    shake(stock)
    names = {
        "self_attn": "attn",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
        "norm1": "norm_1",
        "norm2": "norm_2",
    }
    ours = Block(24, 3, bias_kv=False)
    ours.load_state_dict(
        {re.sub(r"^\w+", lambda m: names[m[0]], k): v for k, v in stock.state_dict().items()}
    )
    x = torch.randn(2, 5, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, None), stock(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ports_fit(name: str) -> None:
    (graph,) = nano(name).graphs
    assert graph.name == f"{name}/encoder"
    assert_fits(graph)
    assert graph.inputs[0].host["kind"] in KINDS


PLAIN = {
    *("Add", "Clip", "Div", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Mul", "ReduceL2", "Reshape"),
    *("Slice", "Softmax", "Transpose"),
}
SPECIAL = {
    "img_enc": {"Concat", "Conv", "ReduceSum"},
    "txt_enc": {"ArgMax", "Gather"},
    "aud_b_enc": {"Concat", "Conv", "ReduceMean"},
    "imu_enc": {"Concat"},
}


@pytest.mark.parametrize("name", NAMES)
def test_captured_graph_is_plain_and_equal(name: str) -> None:
    (graph,) = nano(name).graphs
    session = Session(graph)
    assert session.operators == PLAIN | SPECIAL[name]
    inputs = sample(graph)
    assert difference(eager(graph, inputs)["embedding"], session(inputs)["embedding"]).within("float32")


@pytest.mark.parametrize("name", NAMES)
def test_exported_program_is_the_module(name: str) -> None:
    (graph,) = nano(name).graphs
    inputs = sample(graph, batch=2)
    arguments = tuple(torch.from_numpy(value) for value in inputs.values())
    with torch.no_grad():
        program = torch.export.export(graph.module, arguments, strict=False)
        made = program.module()(*arguments)
    np.testing.assert_array_equal(made.numpy(), eager(graph, inputs)["embedding"])


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_batch_are_independent(name: str) -> None:
    (graph,) = nano(name).graphs
    inputs = sample(graph, batch=3)
    (key,) = inputs
    together = eager(graph, inputs)["embedding"]
    alone = [eager(graph, {key: inputs[key][i : i + 1]})["embedding"] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize(("name", "length"), [("img_enc", 1), ("txt_enc", 1 / 0.07), ("imu_enc", 5)])
def test_embeddings_have_the_length_of_the_scale(name: str, length: float) -> None:
    (graph,) = nano(name).graphs
    embedding = eager(graph, sample(graph))["embedding"]
    assert np.linalg.norm(embedding) == pytest.approx(length, rel=1e-5)


def test_learned_scale_is_bounded() -> None:
    submodel = nano("txt_enc")
    (graph,) = submodel.graphs
    submodel.source.get_parameter("modality_postprocessors.text.1.log_logit_scale").data.fill_(9)
    assert np.linalg.norm(eager(graph, sample(graph))["embedding"]) == pytest.approx(100, rel=1e-5)


def test_text_ends_where_its_largest_token_is() -> None:
    (graph,) = nano("txt_enc").graphs
    tokens = sample(graph)["tokens"]
    end = int(tokens.argmax())
    after, before = tokens.copy(), tokens.copy()
    after[0, end + 1 :] = 7
    before[0, end - 1] = 7 if tokens[0, end - 1] != 7 else 8
    embedding = eager(graph, {"tokens": tokens})["embedding"]
    np.testing.assert_array_equal(eager(graph, {"tokens": after})["embedding"], embedding)
    assert np.abs(eager(graph, {"tokens": before})["embedding"] - embedding).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_other_modalities_are_ignored(name: str) -> None:
    ignored = re.compile(nano(name).ignored)
    own = set(nano(name).source.state_dict())
    others = {key for other in NAMES if other != name for key in nano(other).source.state_dict()}
    others |= {"modality_trunks.depth.blocks.0.norm_1.weight", "modality_heads.thermal.0.bias"}
    assert not any(ignored.match(key) for key in own)
    assert all(ignored.match(key) for key in others)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_read_by_the_module_that_owns_it(name: str) -> None:
    (graph,) = nano(name).graphs
    source = graph.module.source
    called: set[nn.Module] = set()
    for module in source.modules():
        module.register_forward_pre_hook(lambda made, _: called.add(made))
    eager(graph, sample(graph))
    owners = {path: m for path, m in source.named_modules() if list(m.parameters(recurse=False))}
    assert [path for path, m in owners.items() if m not in called] == []
