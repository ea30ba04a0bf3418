"""Convolutions of several samples as one for each, where a target takes one sample at a time."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from m4c.model import module_path
from m4c.passes.properties import typed
from m4c.passes.reading import is_op, known
from m4c.pipeline import Note, Pass, Property, Result
from m4c.rewrite import Replacement, static


@dataclass(frozen=True)
class LegalizeBatch(Pass):
    """Cut every convolution of N > 1 samples into N convolutions with the same weights.

    Before: ``y = Conv(x, w, b)``. After: ``y = Concat(Conv(x[0], w, b), …, Conv(x[N-1], w, b))``, cut and joined as
    [N, C, H · W], which has three sizes.
    """

    name: ClassVar[str] = "legalize-batch"
    needs: ClassVar[tuple[Property, ...]] = (typed,)
    gives: ClassVar[tuple[Property, ...]] = (typed,)

    def call(self, model: ir.Model) -> Result:
        """Rewrite each convolution of several samples; one whose shape is not static is a miss."""
        changes, misses = [], []
        for node in [n for n in model.graph if is_op(n, "Conv")]:
            shapes = static(node.inputs[0]), static(node.outputs[0])
            if shapes[0] is None or shapes[1] is None or len(shapes[0]) < 3:
                misses.append(Note(module_path(node), f"the shape of its input is {shapes[0]}"))
            elif shapes[0][0] > 1:
                _rewrite(node, shapes[0], shapes[1])
                changes.append(Note(module_path(node), f"Conv of {shapes[0][0]} samples one by one"))
        return Result(model, modified=bool(changes), changes=tuple(changes), misses=tuple(misses))


def _rewrite(node: ir.Node, taken: tuple[int, ...], made: tuple[int, ...]) -> None:
    """Replace ``node``, which takes and makes values of these shapes."""
    edit, count = Replacement(node), taken[0]
    attributes = {name: held.value for name, held in node.attributes.items()}
    flat = _flat(edit, known(node.inputs[0]), count, taken, "taken")
    parts = []
    for number in range(count):
        bounds = [edit.constant(f"index{n}", [n]) for n in (number, number + 1, 0)]
        cut = edit.op("Slice", [flat, *bounds], shape=(1, *(static(flat) or ())[1:]))
        sample = edit.op("Reshape", [cut, edit.constant("sample", (1, *taken[1:]))], shape=(1, *taken[1:]))
        one = edit.op("Conv", [sample, *node.inputs[1:]], attributes, shape=(1, *made[1:]))
        parts.append(_flat(edit, one, 1, made, "made"))
    joined = edit.op("Concat", parts, {"axis": 0}, shape=(count, *(static(parts[0]) or ())[1:]))
    edit.finish(edit.op("Reshape", [joined, edit.constant("all", made)], shape=made))


def _flat(edit: Replacement, value: ir.Value, count: int, shape: tuple[int, ...], name: str) -> ir.Value:
    """Return ``value`` [N, C, H, W] as [N, C, H · W], as it is with three sizes."""
    if len(shape) == 3:
        return value
    rest = 1
    for size in shape[2:]:
        rest *= size
    flat = (count, shape[1], rest)
    return edit.op("Reshape", [value, edit.constant(f"flat_{name}{count}", flat)], shape=flat)
