"""How bits are spent: each matrix is tried on several grids, and those that suffer most get the better ones.

What is made small is the sum, over matrices, of the relative error of each: the noise that a matrix adds to what passes
through it, whatever its size. What is spent are bits, so a small matrix is made precise more cheaply than a large one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from m4c.ahead import ahead
from m4c.blockwise import STRETCH, Method
from m4c.errors import UsageError
from m4c.grid import Grid
from m4c.weights import Array, part, stretches


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one grid does to one matrix."""

    name: str
    grid: Grid
    error: float
    """‖W − Ŵ‖² / ‖W‖², each column weighted by its importance where that is known."""
    bits: float
    """Bits of a weight, with its share of scales and zero points."""
    weights: int

    @property
    def cost(self) -> float:
        """Bits of the whole matrix."""
        return self.bits * self.weights


def sensitivity(
    weights: Mapping[str, ir.TensorProtocol],
    grids: Sequence[Grid],
    importance: Mapping[str, Array] | None,
    method: Method,
) -> list[Sensitivity]:
    """Measure matrices (outputs, inputs) on each of ``grids``, in stretches of rows; the worst come first.

    ``importance`` (inputs,) is the mean square of a matrix's inputs; a matrix without it weighs all columns alike. A grid
    whose group size does not divide the inputs is left out for that matrix.

    Raises:
        UsageError: if no grid fits a matrix.
    """
    found: list[Sensitivity] = []
    for name, tensor in weights.items():
        outputs, inputs = tensor.shape.numpy()
        fitting = [grid for grid in grids if inputs % grid.size(inputs) == 0]
        if not fitting:
            raise UsageError(
                f"none of the group sizes divides the {inputs} inputs of {name}",
                where=name,
                fix="choose a smaller --group-size",
            )
        errors = _errors(tensor, fitting, (importance or {}).get(name), method)
        found += [
            Sensitivity(name, grid, error, grid.bits_per_weight(inputs), outputs * inputs)
            for grid, error in zip(fitting, errors, strict=True)
        ]
    return sorted(found, key=lambda s: (-s.error, s.name))


def _errors(
    tensor: ir.TensorProtocol, grids: Sequence[Grid], importance: Array | None, method: Method
) -> list[float]:
    """Return the relative error of one matrix on each grid."""
    weighing = torch.ones(tensor.shape.numpy()[1])
    if importance is not None:
        weighing = torch.from_numpy(np.asarray(importance, np.float32))

    def measure(rows: slice) -> Tensor:
        values = torch.from_numpy(np.array(part(tensor, rows), np.float32))
        noise = [method(values, grid).dequantized().sub_(values) for grid in grids]
        return torch.stack([(v.square_() @ weighing).sum(dtype=torch.float64) for v in (values, *noise)])

    total = torch.zeros(len(grids) + 1, dtype=torch.float64)
    for sums in ahead(measure, stretches(tensor, STRETCH * 4)):
        total += sums
    energy, *noise = total.tolist()
    return [n / energy if energy else 0.0 for n in noise]


def spend(sensitivities: Iterable[Sensitivity], bits_budget: float) -> dict[str, Grid]:
    """Return the grid of each matrix, so that weights take ``bits_budget`` bits on average, or less.

    Begins with the cheapest grids and takes the improvement that removes most error per bit, as long as one can be paid. Only
    grids on the lower convex hull of error over bits are taken, so improvements of a matrix come in their order.

    Raises:
        UsageError: if even the cheapest grids take more.
    """
    choices: dict[str, list[Sensitivity]] = {}
    for one in sensitivities:
        choices.setdefault(one.name, []).append(one)
    hulls = {name: _hull(several) for name, several in choices.items()}
    weights = sum(hull[0].weights for hull in hulls.values())
    spent = {name: hull[0].cost for name, hull in hulls.items()}
    budget = bits_budget * weights
    if sum(spent.values()) > budget:
        raise UsageError(
            f"{bits_budget:g} bits a weight are not enough: the cheapest grids take {sum(spent.values()) / weights:.4g}",
            fix="raise the budget, or allow larger groups",
        )
    chosen = {name: hull[0] for name, hull in hulls.items()}
    steps = [(a, b) for hull in hulls.values() for a, b in pairwise(hull)]
    for _, better in sorted(steps, key=lambda step: _slope(*step)):
        # a matrix whose last improvement was too dear does not get the next, which is dearer still
        trial = {**spent, better.name: better.cost}
        if sum(trial.values()) <= budget:
            chosen[better.name], spent = better, trial
    return {name: one.grid for name, one in chosen.items()}


def _slope(a: Sensitivity, b: Sensitivity) -> float:
    """Return the change of the error per bit from ``a`` to ``b``, which takes more."""
    return (b.error - a.error) / (b.cost - a.cost)


def _hull(several: list[Sensitivity]) -> list[Sensitivity]:
    """Return the choices worth having, cheapest first: each takes error off, and ever less of it per bit."""
    hull: list[Sensitivity] = []
    for one in sorted(several, key=lambda s: (s.cost, s.error)):
        if hull and one.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], one):
            hull.pop()
        hull.append(one)
    return hull
