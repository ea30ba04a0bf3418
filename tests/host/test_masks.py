"""Masks and positions against torch's causal attention."""

import numpy as np
import torch
from torch.nn import functional as F

from m4c.host.masks import causal_mask, positions


def test_the_mask_means_causal_attention() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    wanted = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    mask = torch.from_numpy(causal_mask(5, 0))
    made = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(made, wanted)


def test_the_past_is_visible() -> None:
    mask = causal_mask(2, 3)
    assert (mask.shape, mask.dtype) == ((1, 1, 2, 5), np.dtype("float32"))
    np.testing.assert_array_equal(mask[0, 0] == 0, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    assert mask.min() == np.float32(-1e9)
    np.testing.assert_array_equal(causal_mask(5, 0)[..., 3:, :], causal_mask(2, 3))


def test_positions_go_on_after_the_past() -> None:
    made = positions(3, 4)
    assert made.dtype == np.int64
    np.testing.assert_array_equal(made, [[4, 5, 6]])
