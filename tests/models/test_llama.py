from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from m4c.capture import capture
from m4c.host.masks import causal_mask, positions
from m4c.model import module_path, operator_counts
from m4c.models.graph import Submodel
from m4c.models.imagebind import NANO_EMBEDDING
from m4c.models.llama import PRESETS, LlamaSizes, build
from m4c.models.llama_layers import rotary_table, rotate
from m4c.models.llama_sizes import NANO, HeadSizes, ProjectionSizes
from m4c.numerics import difference
from m4c.skeleton import skeleton
from tests.models.onnx_session import Session, assert_fits, eager, graph, shake

GROUPED = replace(NANO, kv_heads=2)
BIASED = replace(NANO, attention_bias=True, mlp_bias=True, rms_epsilon=1e-3)
TIED = replace(NANO, tied=True)
WIDE_HEADS = replace(NANO, head_dim=32)
ROPES: dict[str, Mapping[str, object]] = {
    "theta": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
OPERATORS = {
    "Add", "Concat", "Gather", "MatMul", "Mul", "Pow", "Reciprocal", "ReduceMean", "Reshape", "Sigmoid", "Slice",
    "Softmax", "Sqrt", "Transpose", "Unsqueeze",
}  # fmt: skip


def backbone(config: LlamaSizes) -> tuple[Submodel, LlamaForCausalLM]:
    """Build the backbone with shaken weights, and the library's model with the same ones."""
    torch.manual_seed(0)
    submodel = build("backbone", config)
    shake(submodel.source)
    stock = LlamaForCausalLM(config.to_library()).eval()
    stock.load_state_dict(submodel.source.state_dict(), strict=True)
    return submodel, stock


def step(
    config: LlamaSizes, embeds: np.ndarray, past: Mapping[str, np.ndarray], done: int
) -> dict[str, np.ndarray]:
    """Return the decoder's inputs for ``embeds`` after ``done`` earlier steps."""
    empty = np.zeros((1, config.kv_heads, 0, config.head_dim), np.float32)
    sequence = embeds.shape[1]
    caches = {
        f"past_{part}_{i}": past.get(f"present_{part}_{i}", empty)
        for i in range(config.layers)
        for part in ("key", "value")
    }
    return {
        "embeds": embeds,
        "positions": positions(sequence, done),
        "mask": causal_mask(sequence, done),
        **caches,
    }


def reference(stock: LlamaForCausalLM, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the library's logits and last hidden states for all tokens at once."""
    with torch.no_grad():
        out = stock(torch.from_numpy(tokens), output_hidden_states=True)
    return out.logits.numpy(), out.hidden_states[-1].numpy()


def test_m4_has_the_published_parameters_and_keys() -> None:
    with skeleton():
        submodels = {name: build(name, config) for name, config in PRESETS["m4"].items()}
    counts = {name: sum(p.numel() for p in s.source.parameters()) for name, s in submodels.items()}
    assert counts == {"backbone": 6_738_415_616, "gen_dec": 131_072_000, "projection": 4_198_400}
    shapes = {name: tuple(t.shape) for name, t in submodels["backbone"].source.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32000, 4096),
        "model.norm.weight": (4096,),
        "lm_head.weight": (32000, 4096),
    }
    for i in range(32):
        layer = f"model.layers.{i}"
        expected |= {f"{layer}.self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
        expected |= {f"{layer}.mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")}
        expected |= {f"{layer}.mlp.down_proj.weight": (4096, 11008)}
        expected |= {f"{layer}.{part}_layernorm.weight": (4096,) for part in ("input", "post_attention")}
    assert len(expected) == 291
    assert shapes == expected
    assert list(submodels["gen_dec"].source.state_dict()) == ["lm_head.weight"]
    assert list(submodels["projection"].source.state_dict()) == ["linear.weight", "linear.bias"]


def test_presets_fit_together() -> None:
    for preset in PRESETS.values():
        main, head, projection = preset["backbone"], preset["gen_dec"], preset["projection"]
        assert isinstance(main, LlamaSizes)
        assert head == HeadSizes(main.width, main.vocabulary)
        assert isinstance(projection, ProjectionSizes)
        assert projection.width == main.width
    assert PRESETS["m4-nano"]["projection"] == ProjectionSizes(NANO_EMBEDDING, NANO.width)


@pytest.mark.parametrize("name", PRESETS["m4-nano"])
def test_samples_and_outputs_fit_the_ports(name: str) -> None:
    for made in build(name, PRESETS["m4-nano"][name]).graphs:
        assert_fits(made)


@pytest.mark.parametrize(
    "config", [NANO, GROUPED, BIASED, TIED, WIDE_HEADS, *(replace(NANO, rope=r) for r in ROPES.values())]
)
def test_prefill_then_decode_equals_the_library(config: LlamaSizes, rng: np.random.Generator) -> None:
    submodel, stock = backbone(config)
    tokens = rng.integers(0, config.vocabulary, (1, 7))
    embeds = eager(graph(submodel, "embed"), {"tokens": tokens})["embeds"]
    decoder, logits, hidden = graph(submodel, "decoder"), [], []
    past: dict[str, np.ndarray] = {}
    for first, last in ((0, 4), (4, 5), (5, 7)):
        past = eager(decoder, step(config, embeds[:, first:last], past, first))
        logits.append(past["logits"])
        hidden.append(past["hidden"])
    want_logits, want_hidden = reference(stock, tokens)
    assert difference(want_logits, np.concatenate(logits, axis=1)).max_relative < 1e-5
    assert difference(want_hidden, np.concatenate(hidden, axis=1)).max_relative < 1e-5


@pytest.mark.parametrize("config", [NANO, GROUPED])
def test_one_onnx_graph_prefills_and_decodes(config: LlamaSizes, rng: np.random.Generator) -> None:
    submodel, stock = backbone(config)
    embed, decoder = Session(graph(submodel, "embed")), Session(graph(submodel, "decoder"))
    tokens = rng.integers(0, config.vocabulary, (1, 5))
    prefill = decoder(step(config, embed({"tokens": tokens[:, :4]})["embeds"], {}, 0))
    decode = decoder(step(config, embed({"tokens": tokens[:, 4:]})["embeds"], prefill, 4))
    logits = np.concatenate((prefill["logits"], decode["logits"]), axis=1)
    assert difference(reference(stock, tokens)[0], logits).within("float32")
    assert decode["present_key_1"].shape == (1, config.kv_heads, 5, config.head_dim)
    assert embed.operators == {"Gather"}
    assert decoder.operators == OPERATORS


def test_full_width_has_the_same_operators_and_paths() -> None:
    with skeleton():
        decoder = graph(build("backbone", LlamaSizes(layers=1)), "decoder")
    model = capture(decoder)
    inner = {"Cast", "Constant", "Identity", "Shape", "Squeeze"}
    assert set(operator_counts(model)) - inner == OPERATORS
    (softmax,) = (node for node in model.graph if node.op_type == "Softmax")
    assert module_path(softmax) == "model.layers.0.self_attn"


def test_a_hidden_step_changes_nothing(rng: np.random.Generator) -> None:
    submodel, _ = backbone(NANO)
    decoder = graph(submodel, "decoder")
    inputs = decoder.sample(rng, decoder.sizes)
    inputs["mask"][..., 0] = -1e9
    before = eager(decoder, inputs)["logits"]
    for name in ("past_key_0", "past_value_0"):
        inputs[name][:, :, 0] += 1
    np.testing.assert_array_equal(before, eager(decoder, inputs)["logits"])
    inputs["past_key_0"][:, :, 1] += 1
    assert not np.array_equal(before, eager(decoder, inputs)["logits"])


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_rotation_equals_the_library(rope: Mapping[str, object]) -> None:
    source = LlamaForCausalLM(replace(NANO, rope=rope).to_library())
    query, key = torch.randn(
        2, 1, 4, NANO.max_positions, NANO.head_dim, generator=torch.Generator().manual_seed(0)
    )
    every = torch.arange(NANO.max_positions)[None]
    wanted = apply_rotary_pos_emb(query, key, *source.model.rotary_emb(query, every))
    table = rotary_table(source, NANO.max_positions)
    assert torch.equal(rotate(query, table), wanted[0])
    assert torch.equal(rotate(key, table), wanted[1])


@pytest.mark.parametrize("name", ["gen_dec", "projection"])
def test_heads_in_onnx(name: str, rng: np.random.Generator) -> None:
    submodel = build(name, PRESETS["m4-nano"][name])
    (made,) = submodel.graphs
    inputs = made.sample(rng, made.sizes)
    (vector,) = inputs.values()
    weights = [t.numpy() for t in submodel.source.state_dict().values()]
    wanted = vector @ weights[0].T + (weights[1] if len(weights) > 1 else 0)
    (got,) = Session(made)(inputs).values()
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)


def test_tied_output_is_declared() -> None:
    assert build("backbone", TIED).tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert build("backbone", NANO).tied == {}


def test_angles_do_not_depend_on_how_much_of_the_context_is_used() -> None:
    """A yarn without its original length takes that from the model's most positions, which a shorter context leaves."""
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    sizes = replace(NANO, rope=yarn, max_positions=64)
    tables = [
        {
            name: table.numpy()
            for name, table in graph(build("backbone", made), "decoder").module.named_buffers()
        }
        for made in (sizes, replace(sizes, context=16))
    ]
    for name in ("cos", "sin"):
        assert tables[1][name].shape == (16, NANO.head_dim)
        np.testing.assert_array_equal(tables[1][name], tables[0][name][:16])
