"""Every condition that profiles may name: importing this file makes them known."""

from m4c.targets.constraints import KNOWN, Condition, Constraint, layouts, of_onnx, parse, tensors, windows

__all__ = ["KNOWN", "ROOMS", "Condition", "Constraint", "parse"]

ROOMS = (tensors, windows, layouts, of_onnx)
"""Where they are written, in the order of docs/constraints.md."""
