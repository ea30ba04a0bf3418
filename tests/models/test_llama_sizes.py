from dataclasses import replace
from typing import Any

import pytest

from m4c.errors import CheckpointError, UsageError
from m4c.models.llama_sizes import NANO, LlamaSizes

TINY_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
LLAMA3_ROPE = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def test_reads_a_published_configuration() -> None:
    assert LlamaSizes.from_json(TINY_LLAMA) == LlamaSizes(
        width=2048, ffn=5632, layers=22, kv_heads=4, head_dim=64, rms_epsilon=1e-5
    )


def test_reads_scaled_rotary_tied_embeddings_and_several_ends() -> None:
    made = LlamaSizes.from_json(
        {
            **TINY_LLAMA,
            "rope_scaling": dict(LLAMA3_ROPE),
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "eos_token_id": [3, 4],
        }
    )
    assert made.rope == {**LLAMA3_ROPE, "rope_theta": 500000.0}
    assert made.tied
    assert made.end == (3, 4)


def test_sizes_survive_the_library() -> None:
    unusual = replace(NANO, kv_heads=2, tied=True, attention_bias=True, end=(5, 6), begin=4, max_positions=99)
    for sizes in (LlamaSizes(), NANO, unusual):
        assert LlamaSizes.from_library(sizes.to_library()) == sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_size": "wide"}, "transformers refuses"),
        ({"num_attention_heads": 30}, "transformers refuses"),
        ({"eos_token_id": None, "vocab_size": None}, "lacks vocab_size, eos_token_id"),
    ],
)
def test_refuses_another_configuration(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        LlamaSizes.from_json({**TINY_LLAMA, **change})
    assert "config.json" in str(error.value)
    assert error.value.fix


def test_refuses_what_a_graph_cannot_express() -> None:
    with pytest.raises(UsageError, match=r"4 heads do not share 3") as error:
        replace(NANO, kv_heads=3)
    assert error.value.fix
    with pytest.raises(UsageError, match=r"'dynamic' depend on more than the position") as error:
        LlamaSizes.from_json({**TINY_LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})
    assert error.value.fix
