"""Hold the graph of an integer build against its source before it is rounded.

Eight bits leave a few decibels, among which a wrong layer would hide: with a mask off by one in its second block, the text
encoder of m4-nano has 16 dB, and 10 dB are enough for int8. So what the passes made is run in float first.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.errors import NumbersError
from m4c.numerics import REWRITTEN, difference, worst
from m4c.source import Source
from m4c.sweep import sweep
from m4c.verify import FLOAT_FIX, first_beyond

Array = np.ndarray


def check_unrounded(source: Source, model: ir.Model, sample: Mapping[str, Array], workspace: Path) -> None:
    """Run ``model``, whose values are float, on ``sample``, and compare its float outputs with what ``source`` computes.

    ``workspace`` is a folder for as much as :func:`m4c.sweep.sweep` needs.

    Raises:
        NumbersError: if they differ by more than passes may cost, naming the first node that does.
    """
    expected = source.run(sample)
    made = {name: value for name, value in sweep(model, [sample], workspace) if name in expected}
    if not made:
        return
    found = worst([difference(expected[name], value) for name, value in made.items()])
    if not (found.within(REWRITTEN) or found.within("float32")):  # an output of zeros has no ratio
        actual = dict(sweep(model, [sample], workspace))
        raise NumbersError(
            f"{source.name} differs from its source before it is rounded: {found}, "
            f"allowed is {found.allowed(REWRITTEN)}",
            where=first_beyond(source, model, actual, REWRITTEN, sample),
            fix=FLOAT_FIX,
        )
