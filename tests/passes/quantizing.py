"""What the tests of static quantization share."""

from typing import Any

import numpy as np
import onnx_ir as ir

from m4c.passes.quantize_static import QuantizeStatic
from m4c.pipeline import Result


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def quantized(model: ir.Model, **options: Any) -> Result:
    result = QuantizeStatic(**options)(model)
    assert isinstance(result, Result)
    return result
