"""What every test gets: a fixed seed and onnx_ir's stricter checks."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.bundles import copied, float_bundle, int8_bundle, nano_bundle
from tests.shell import m4c

__all__ = ["copied", "float_bundle", "int8_bundle", "m4c", "nano_bundle"]


@pytest.fixture(autouse=True)
def _strict() -> None:
    """Turn on onnx_ir's invariant checks."""
    ir.DEBUG = True


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator with a fixed seed."""
    return np.random.default_rng(0)
