import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from m4c.host.prepare import KINDS
from m4c.models.clip_tokens import ClipTokens
from m4c.models.graph import Graph, Submodel
from m4c.models.stable_diffusion import PRESETS, RENAMES, build
from m4c.models.stable_diffusion_model import TextSizes, UNetSizes, VaeSizes
from m4c.numerics import difference
from tests.models.onnx_session import Session, assert_fits, eager, graph, shake

GRAPHS = ("text", "unet", "vae_decoder", "vae_encoder")
NANO = PRESETS["m4-nano"]["img_dec"]
TINY = replace(
    NANO,
    text=TextSizes(ClipTokens(None, 300, 8, pad=None), width=32, layers=1, heads=2, ffn=64),
    unet=UNetSizes((16, 32), layers=1, heads=2, groups=4),
    vae=VaeSizes((8, 16), layers=1, groups=4),
)
"""Every operator of the nano model in as few layers as there can be."""


@cache
def nano() -> Submodel:
    """The nano model, built once: the tests do not change it."""
    torch.manual_seed(0)
    submodel = build("img_dec", NANO)
    shake(submodel.source)
    return submodel


@cache
def tiny() -> Submodel:
    """The tiny model, built once."""
    torch.manual_seed(0)
    submodel = build("img_dec", TINY)
    shake(submodel.source)
    return submodel


def sample(of: Graph, batch: int = 1) -> dict[str, np.ndarray]:
    return of.sample(np.random.default_rng(0), {"batch": batch})


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


def test_m4_is_stable_diffusion_1() -> None:
    with torch.device("meta"):
        source = build("img_dec", PRESETS["m4"]["img_dec"]).source
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in source.named_children()}
    assert counts == {"unet": 859520964, "vae": 83653863, "text_encoder": 123060480}
    assert sum(p.numel() for p in source.parameters()) == 1066235307
    entries = [key.split(".")[0] for key in source.state_dict()]
    assert {name: entries.count(name) for name in counts} == {"unet": 686, "vae": 248, "text_encoder": 196}
    assert len(entries) == 1130
    vae = source.get_submodule("vae")
    decoding = [p.numel() for key, p in vae.named_parameters() if re.match(r"decoder|post_quant", key)]
    assert sum(decoding) == 49490199


def test_m4_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        source = build("img_dec", PRESETS["m4"]["img_dec"]).source
    state = source.state_dict()
    for key, shape in {
        "unet.conv_in.weight": (320, 4, 3, 3),
        "unet.time_embedding.linear_1.weight": (1280, 320),
        "unet.down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
        "unet.down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "vae.encoder.mid_block.attentions.0.to_out.0.weight": (512, 512),
        "vae.decoder.up_blocks.2.resnets.0.conv_shortcut.weight": (256, 512, 1, 1),
        "vae.post_quant_conv.weight": (4, 4, 1, 1),
        "text_encoder.embeddings.token_embedding.weight": (49408, 768),
        "text_encoder.encoder.layers.11.mlp.fc1.weight": (3072, 768),
        "text_encoder.final_layer_norm.bias": (768,),
    }.items():
        assert tuple(state[key].shape) == shape, key


@pytest.mark.parametrize("name", GRAPHS)
def test_ports_fit(name: str) -> None:
    assert_fits(graph(nano(), name))


def test_inputs_made_by_the_host_are_of_known_kinds() -> None:
    assert graph(nano(), "text").inputs[0].host["kind"] in KINDS
    assert graph(nano(), "vae_encoder").inputs[0].host["kind"] in KINDS
    assert tiny().assets == ()
    published = ClipTokens("tokenizer/merges.txt", pad=None)
    assert PRESETS["m4"]["img_dec"].text.words == published


def test_text_follows_transformers() -> None:
    text = graph(nano(), "text")
    ours = nano().source.get_submodule("text_encoder")
    stock = CLIPTextModel._from_config(ours.config, attn_implementation="sdpa").eval()
    stock.load_state_dict(ours.state_dict())
    inputs = sample(text, batch=2)
    with torch.no_grad():
        expected = stock(input_ids=torch.from_numpy(inputs["tokens"])).last_hidden_state
    assert difference(expected.numpy(), eager(text, inputs)["states"]).max_relative < 2e-6


def test_unet_follows_diffusers() -> None:
    unet = graph(nano(), "unet")
    ours = nano().source.get_submodule("unet")
    stock = UNet2DConditionModel.from_config(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    inputs = sample(unet, batch=2)
    assert inputs["step"].dtype == np.float32
    given = tensors(inputs)
    with torch.no_grad():
        expected = stock(given["latent"], given["step"].long(), given["states"]).sample
    assert difference(expected.numpy(), eager(unet, inputs)["noise"]).max_relative < 1e-5


def stock_vae() -> AutoencoderKL:
    ours = nano().source.get_submodule("vae")
    stock = AutoencoderKL.from_config(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    return stock


def test_vae_decoder_follows_diffusers() -> None:
    decoder = graph(nano(), "vae_decoder")
    inputs = sample(decoder, batch=2)
    with torch.no_grad():
        expected = stock_vae().decode(tensors(inputs)["latent"]).sample
    assert difference(expected.numpy(), eager(decoder, inputs)["image"]).max_relative < 1e-5


def test_vae_encoder_gives_the_mean_of_diffusers() -> None:
    encoder = graph(nano(), "vae_encoder")
    inputs = sample(encoder, batch=2)
    with torch.no_grad():
        expected = stock_vae().encode(tensors(inputs)["image"]).latent_dist.mean
    assert difference(expected.numpy(), eager(encoder, inputs)["latent"]).max_relative < 1e-5


BASE = {"Add", "MatMul", "Mul", "Reshape", "Sigmoid", "Softmax", "Transpose"}
OPERATORS = {
    "text": BASE | {"Gather", "LayerNormalization"},
    "unet": BASE
    | {
        "Concat",
        "Conv",
        "Cos",
        "Gelu",
        "Gemm",
        "InstanceNormalization",
        "LayerNormalization",
        "Resize",
        "Sin",
    }
    | {"Slice", "Split", "Unsqueeze"},
    "vae_decoder": BASE | {"Conv", "InstanceNormalization", "Resize"},
    "vae_encoder": BASE | {"Conv", "InstanceNormalization", "Slice"},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_captured_graph_is_plain_and_equal(name: str) -> None:
    made = graph(tiny(), name)
    session = Session(made)
    assert session.operators == OPERATORS[name]
    inputs = sample(made)
    (output,) = made.outputs
    assert difference(eager(made, inputs)[output.name], session(inputs)[output.name]).within("float32")


@pytest.mark.parametrize("name", ["text", "vae_encoder"])
def test_exported_program_is_the_module(name: str) -> None:
    made = graph(tiny(), name)
    inputs = sample(made, batch=2)
    arguments = tuple(tensors(inputs).values())
    with torch.no_grad():
        program = torch.export.export(made.module, arguments, strict=False)
        out = program.module()(*arguments)
    np.testing.assert_array_equal(out.numpy(), eager(made, inputs)[made.outputs[0].name])


def test_later_tokens_do_not_change_earlier_states() -> None:
    text = graph(nano(), "text")
    tokens = sample(text)["tokens"]
    changed = tokens.copy()
    changed[0, 5] = (changed[0, 5] + 1) % 900
    before, after = (eager(text, {"tokens": t})["states"] for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


@pytest.mark.parametrize(
    ("published", "key"),
    [
        ("text_encoder.text_model.final_layer_norm.weight", "text_encoder.final_layer_norm.weight"),
        ("text_encoder.final_layer_norm.weight", "text_encoder.final_layer_norm.weight"),
        (
            "vae.encoder.mid_block.attentions.0.query.weight",
            "vae.encoder.mid_block.attentions.0.to_q.weight",
        ),
        ("vae.decoder.mid_block.attentions.0.key.bias", "vae.decoder.mid_block.attentions.0.to_k.bias"),
        ("vae.decoder.mid_block.attentions.0.value.bias", "vae.decoder.mid_block.attentions.0.to_v.bias"),
        (
            "vae.decoder.mid_block.attentions.0.proj_attn.weight",
            "vae.decoder.mid_block.attentions.0.to_out.0.weight",
        ),
    ],
)
def test_published_names_are_renamed(published: str, key: str) -> None:
    renamed = published
    for pattern, replacement in RENAMES:
        renamed = re.sub(pattern, replacement, renamed)
    assert renamed == key
    assert key in nano().source.state_dict()


def test_own_names_stay() -> None:
    for key in nano().source.state_dict():
        assert not any(re.search(pattern, key) for pattern, _ in RENAMES), key
        assert not re.match(nano().ignored, key)
    assert re.match(nano().ignored, "text_encoder.text_model.embeddings.position_ids")


@pytest.mark.parametrize("folder", ["unet", "vae", "text_encoder"])
def test_every_weight_is_read_by_the_module_that_owns_it(folder: str) -> None:
    submodel = build("img_dec", TINY)
    called: set[nn.Module] = set()
    for module in submodel.source.modules():
        module.register_forward_pre_hook(lambda made, _: called.add(made))
    for made in submodel.graphs:
        eager(made, sample(made))
    child = submodel.source.get_submodule(folder)
    owners = {path: m for path, m in child.named_modules() if list(m.parameters(recurse=False))}
    assert [path for path, m in owners.items() if m not in called] == []
