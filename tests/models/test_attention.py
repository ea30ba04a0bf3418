import numpy as np
import torch
from torch.nn import functional

from m4c.models.attention import attend, cache_ports, grow, join_heads, sample_steps, split_heads


def test_equals_torch() -> None:
    query, key, value = torch.randn(3, 2, 5, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.where(torch.ones(5, 5, dtype=torch.bool).tril(), 0.0, -1e9)[None, None]
    q, k, v = (split_heads(x, 4) for x in (query, key, value))
    assert q.shape == (2, 4, 5, 6)
    wanted = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend(q, k, v, mask), wanted)


def test_join_undoes_split() -> None:
    x = torch.arange(2 * 5 * 24.0).view(2, 5, 24)
    assert torch.equal(join_heads(split_heads(x, 4)), x)


def test_grow_appends_in_time() -> None:
    past, new = torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 1, 4)
    assert grow(past, new)[0, 1, :, 0].tolist() == [0, 0, 0, 1]


def test_cache_ports_alternate_keys_and_values() -> None:
    ports = cache_ports("past", 2, ("batch", 4, "past", 8), "before")
    assert [p.name for p in ports] == ["past_key_0", "past_value_0", "past_key_1", "past_value_1"]
    assert ports[0].sized({"batch": 1, "past": 3}) == (1, 4, 3, 8)


def test_steps_continue_the_past() -> None:
    made = sample_steps({"batch": 2, "sequence": 2, "past": 3})
    assert made["positions"].tolist() == [[3, 4], [3, 4]]
    assert made["mask"].shape == (2, 1, 2, 5)
    np.testing.assert_array_equal(made["mask"][1, 0] == 0, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
