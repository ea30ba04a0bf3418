"""The named facts of a model that passes need and give."""

import onnx_ir as ir

from m4c.model import module_path
from m4c.pipeline import Property


def _untyped(model: ir.Model) -> list[str]:
    """List values without a dtype or a rank."""
    return [
        f"{output.name} of {module_path(node)} has no dtype or shape"
        for node in model.graph
        for output in node.outputs
        if output.name and (output.dtype is None or output.shape is None)
    ]


typed = Property("typed", _untyped)
"""Every value has a dtype and a shape; dimensions may be symbolic."""
