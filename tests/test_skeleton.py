import resource
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from m4c.models import build
from m4c.skeleton import skeleton
from tests.two_layers import TwoLayers


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def test_parameters_are_fake_and_buffers_are_real() -> None:
    with skeleton():
        made = TwoLayers()
    assert all(isinstance(p, FakeTensor) and not p.requires_grad for p in made.parameters())
    assert {n: p.shape for n, p in made.named_parameters()} == {
        n: p.shape for n, p in TwoLayers().named_parameters()
    }
    assert not isinstance(made.shift, FakeTensor)
    torch.testing.assert_close(made.shift, torch.linspace(-1, 1, 8))


def test_tied_weights_stay_tied() -> None:
    with skeleton():
        made = Tied()
    assert made.head.weight is made.embed.weight
    assert len(list(made.parameters())) == 1


def test_torch_is_as_before_afterwards() -> None:
    register = nn.Module.register_parameter
    with pytest.raises(KeyError), skeleton():
        raise KeyError
    assert nn.Module.register_parameter is register
    assert not isinstance(nn.Linear(2, 2).weight, FakeTensor)


def test_dtypes_and_absent_parameters_are_kept() -> None:
    with skeleton():
        made = nn.Linear(2, 2, bias=False, dtype=torch.float16)
    assert made.weight.dtype == torch.float16
    assert made.bias is None


def test_a_large_module_takes_no_memory() -> None:
    def peak() -> int:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024

    before = peak()
    with skeleton():
        made = nn.Sequential(*(nn.Linear(16384, 16384) for _ in range(4)))  # 4.3 GB of weights
    assert sum(p.numel() for p in made.parameters()) > 1e9
    assert peak() - before < 1 << 28


def test_buffers_of_a_library_model_equal_those_of_its_own_constructor() -> None:
    with skeleton():
        fake = build("backbone", "m4-nano").source
    real = build("backbone", "m4-nano").source
    held = dict(real.named_buffers())
    assert held
    for name, buffer in fake.named_buffers():
        np.testing.assert_array_equal(buffer.numpy(), held[name].numpy())
