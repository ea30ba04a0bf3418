"""Precisions of artifacts by their names: what is rounded, and to how many bits."""

INTEGER = frozenset({"int8", "int16x8"})
"""Activations are integers too, whose ranges need calibration."""

HALF = "float16"
"""Weights are float16; a GPU computes in it too, or a runtime without it in float32."""

BITS = {"int8-weights": 8, "int4": 4}
"""Weights alone are integers, of so many bits; activations stay float."""

PRECISIONS = ("float32", HALF, *sorted(INTEGER), *BITS)
"""All that m4c builds."""
