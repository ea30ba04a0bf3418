"""LLaMA's layers with mask, angles and cache as arguments: the library's modules and names, called without shape arithmetic.

Rotary angles are a table that is computed once by the library's own module.
"""

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

from m4c.models.attention import attend, grow, join_heads, split_heads
from m4c.models.llama_sizes import LlamaSizes

Cache = tuple[Tensor, Tensor]
"""Keys and values of one layer, (batch, kv_heads, steps, head_dim) each."""

Turn = tuple[Tensor, Tensor]
"""Cosines and signed sines of the steps of a call, (batch, 1, sequence, head_dim) each."""


def rotary_table(source: LlamaForCausalLM, max_positions: int) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines (max_positions, head_dim) as the library's own rotary module computes them.

    The first half of the sines is negated: what the library does to the vector at each step is done here once.
    """
    every = torch.arange(max_positions)[None]
    cos, sin = source.model.rotary_emb(torch.zeros(1), every)
    first, second = sin[0].chunk(2, dim=-1)
    return cos[0].clone(), torch.cat((-first, second), dim=-1)


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Turn ``x`` (batch, heads, sequence, head_dim) by the angles of ``turn``."""
    half = x.shape[3] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return x * turn[0] + swapped * turn[1]


class CachedAttention(nn.Module):
    """LlamaAttention's four linear layers, with the cache as arguments and results."""

    def __init__(self, stock: LlamaAttention, config: LlamaSizes) -> None:
        """Take the linear layers of ``stock``, under their names."""
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = stock.q_proj, stock.k_proj, stock.v_proj
        self.o_proj = stock.o_proj
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim

    def forward(self, x: Tensor, turn: Turn, mask: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Attend from ``x`` (batch, sequence, width) to the past and itself; return also the grown cache.

        ``mask`` is (batch, 1, sequence · heads/kv_heads, past + sequence).
        """
        query = rotate(split_heads(self.q_proj(x), self.heads), turn)
        key = grow(past[0], rotate(split_heads(self.k_proj(x), self.kv_heads), turn))
        value = grow(past[1], split_heads(self.v_proj(x), self.kv_heads))
        if self.heads == self.kv_heads:
            attended = attend(query, key, value, mask)
        else:
            # queries that share a key-value head count as further steps, so that no cache is copied
            grouped = query.reshape(x.shape[0], self.kv_heads, -1, self.head_dim)
            attended = attend(grouped, key, value, mask).reshape(x.shape[0], self.heads, -1, self.head_dim)
        return self.o_proj(join_heads(attended)), (key, value)


class CachedLayer(nn.Module):
    """LlamaDecoderLayer's modules around a :class:`CachedAttention`."""

    def __init__(self, stock: LlamaDecoderLayer, config: LlamaSizes) -> None:
        """Take the modules of ``stock``, under their names."""
        super().__init__()
        self.self_attn = CachedAttention(stock.self_attn, config)
        self.mlp = stock.mlp
        self.input_layernorm = stock.input_layernorm
        self.post_attention_layernorm = stock.post_attention_layernorm

    def forward(self, x: Tensor, turn: Turn, mask: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Return ``x`` (batch, sequence, width) after this layer, and the grown cache."""
        attended, present = self.self_attn(self.input_layernorm(x), turn, mask, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present
