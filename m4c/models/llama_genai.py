"""What ``backbone/model`` has beside the decoder: the interface that onnxruntime-genai calls a LLaMA by.

That runtime gives token ids and a mask over all steps so far, 1 = a token, 0 = padding on the left; positions and the additive
mask are computed from these in the graph. It may hand over caches that are longer than what is in them, so the number of steps
so far is known from the mask's length alone. Hence no size is taken of anything here: the rows and columns of the mask are
counted by running sums of ones, which no exporter can trade for the size of a cache.
"""

import numpy as np
import torch
from torch import Tensor

from m4c.host.masks import HIDDEN
from m4c.models.attention import sample_floats
from m4c.models.graph import Port, Sizes
from m4c.models.llama_sizes import LlamaSizes

ATTENTION_MASK = Port(
    "attention_mask", "int64", ("batch", "past + sequence"), "1 = a token, 0 = padding before the first"
)


def positions_and_mask(tokens: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decoder's ``positions`` (batch, sequence) and ``mask`` (batch, 1, sequence, past + sequence).

    ``tokens`` is (batch, sequence), ``attention_mask`` (batch, past + sequence). Padding counts as steps: rotary attention
    knows the distance of two steps alone, and ONNX Runtime 1.32 turns the keys of a first call as if there were no padding.
    """
    columns = torch.cumsum(attention_mask * 0 + 1, dim=1) - 1
    steps = torch.cumsum(tokens * 0 + 1, dim=1)
    rows = columns.amax(dim=1, keepdim=True) - steps.amax(dim=1, keepdim=True) + steps
    visible = (columns.unsqueeze(1) <= rows.unsqueeze(2)) & (attention_mask.unsqueeze(1) > 0)
    return rows, torch.where(visible, 0.0, float(HIDDEN)).unsqueeze(1)


def cache_names(prefix: str, layers: int) -> list[str]:
    """Return ``<prefix>.0.key``, ``<prefix>.0.value``, ``<prefix>.1.key``, …, as the runtime counts them."""
    return [f"{prefix}.{i}.{part}" for i in range(layers) for part in ("key", "value")]


def ports(config: LlamaSizes, host: dict[str, object]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and the outputs; ``host`` tells how the token ids are made."""
    before = ("batch", config.kv_heads, "past", config.head_dim)
    after = ("batch", config.kv_heads, "past + sequence", config.head_dim)
    pasts = cache_names("past_key_values", config.layers)
    presents = cache_names("present", config.layers)
    inputs = (
        Port("input_ids", "int64", ("batch", "sequence"), "token ids", host),
        ATTENTION_MASK,
        *(Port(name, "float32", before, "cache of the steps before this call") for name in pasts),
    )
    outputs = (
        Port(
            "logits", "float32", ("batch", "sequence", config.vocabulary), "score of each token to come next"
        ),
        *(Port(name, "float32", after, "the past with the steps of this call") for name in presents),
    )
    return inputs, outputs


def sample(
    rng: np.random.Generator, inputs: tuple[Port, ...], vocabulary: int, sizes: Sizes
) -> dict[str, np.ndarray]:
    """Return random tokens after random caches, nothing of it padding."""
    tokens, mask, *pasts = inputs
    return {
        tokens.name: rng.integers(0, vocabulary, tokens.sized(sizes)),
        mask.name: np.ones(mask.sized(sizes), np.int64),
        **sample_floats(rng, pasts, sizes),
    }
