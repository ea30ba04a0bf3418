"""GPTQ: column after column is rounded, and what it got wrong is made good by the columns still to come.

Source: E. Frantar, S. Ashkboos, T. Hoefler and D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023. The Hessian 2·XᵀX/n of a layer's squared output error says which columns can help; its
inverse is needed only as the upper factor U of H⁻¹ = UᵀU, which several layers with one input share.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from m4c.blockwise import Blocks
from m4c.errors import NumbersError
from m4c.grid import Grid
from m4c.rounding.rtn import round_to_nearest
from m4c.weights import spans

BLOCK = 128
"""Columns whose corrections reach the columns after them at once, in one matrix product. Source: the authors' own."""

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean. Source: the authors' own default."""

HARDER = (1, 10, 100)
"""Multiples of the damping that are tried one after the other."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """How the error of each input's column is made good by those that come later."""

    factor: Tensor
    """float32 (inputs, inputs), upper; rows and columns in the order of work."""
    order: Tensor | None
    """int64 (inputs,): the input at each place in the order of work; None: as they are."""
    dead: Tensor
    """bool (inputs,): inputs that are always zero; their weights do nothing, and become zero."""


def gptq(
    weight: Tensor, hessian: Tensor, grid: Grid, *, act_order: bool = False, damping: float = DAMPING
) -> Blocks:
    """Quantize ``weight`` float32 (outputs, inputs) for the ``hessian`` float32 (inputs, inputs); both are left alone.

    A group's scales are searched when work reaches it, from weights as corrected so far. With ``act_order`` the inputs that
    are largest come first, and scales are searched before anything is corrected, so that codes keep their order.

    Raises:
        NumbersError: if the Hessian is not positive definite even with more damping.
    """
    return quantize(weight, feedback(hessian, act_order=act_order, damping=damping), grid)


def feedback(hessian: Tensor, *, act_order: bool = False, damping: float = DAMPING) -> Feedback:
    """Return what :func:`quantize` needs of ``hessian`` float32 (inputs, inputs), which is left alone.

    Raises:
        NumbersError: if it is not positive definite even with more damping.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else None
    # A factor of the Hessian from its end is the inverse's from the beginning: no inverse has to be factored.
    last_first = torch.arange(len(hessian)) if order is None else order
    last_first = last_first.flip(0)
    step = damping * diagonal.mean()
    for harder in HARDER:
        turned = hessian[last_first][:, last_first]
        turned.diagonal().add_(step * harder + dead[last_first])
        lower, failed = torch.linalg.cholesky_ex(turned)
        del turned
        if not failed and bool(lower.diagonal().isfinite().all()):
            unit = torch.eye(len(lower))
            torch.linalg.solve_triangular(lower, unit, upper=False, out=unit)
            del lower
            return Feedback(unit.flip(0, 1), order, dead)
    raise NumbersError(
        f"the calibration samples give a Hessian that is not positive definite with a damping of "
        f"{damping * HARDER[-1]:g}",
        fix="calibrate with other samples, or choose the method rtn or hqq",
    )


def quantize(weight: Tensor, feedback: Feedback, grid: Grid) -> Blocks:
    """Quantize ``weight`` float32 (outputs, inputs), which is left alone; see :func:`gptq`."""
    inputs = weight.shape[1]
    # (inputs, outputs), so that a column is read and written whole
    columns = weight.T.clone(memory_format=torch.contiguous_format)
    columns[feedback.dead] = 0
    work = _Work(columns, grid, grid.size(inputs), feedback.order)
    if feedback.order is not None:
        for group in range(inputs // work.size):
            work.search(group)
        work.columns = columns[feedback.order]
        del columns
    for block in spans(inputs, BLOCK):
        wrong = _block(work, block, feedback.factor[block, block])
        work.columns[block.stop :].addmm_(feedback.factor[block, block.stop :].T, wrong, alpha=-1)
    return Blocks(
        work.codes.T.contiguous(), work.scales.T.contiguous(), work.zeros.to(torch.uint8).T.contiguous()
    )


class _Work:
    """The weights still to be rounded, (inputs, outputs) in the order of work, and what is done."""

    def __init__(self, columns: Tensor, grid: Grid, size: int, order: Tensor | None) -> None:
        inputs, outputs = columns.shape
        self.columns, self.grid, self.size = columns, grid, size
        self.order = None if order is None else order.tolist()
        self.codes = torch.empty(inputs, outputs, dtype=torch.uint8)
        self.scales, self.zeros = torch.empty(2, inputs // size, outputs)

    def search(self, group: int) -> None:
        """Find scales and zero points of a group."""
        rows = self.columns[group * self.size : (group + 1) * self.size].T
        found = round_to_nearest(rows, replace(self.grid, group=None))
        self.scales[group], self.zeros[group] = found.scales[:, 0], found.zeros[:, 0]

    def round(self, place: int) -> Tensor:
        """Round the column at ``place`` and return its error (outputs,)."""
        if self.order is None and place % self.size == 0:
            self.search(place // self.size)
        column: int = place if self.order is None else self.order[place]
        scale, zero = self.scales[column // self.size], self.zeros[column // self.size]
        codes = (self.columns[place] / scale).add_(zero).round_().clamp_(self.grid.bottom, self.grid.top)
        self.codes[column] = codes
        made: Tensor = codes.sub_(zero).mul_(scale)
        return self.columns[place] - made


def _block(work: _Work, block: slice, factor: Tensor) -> Tensor:
    """Round the columns of ``block``; return what is to be made good later, (columns, outputs)."""
    wrong = torch.empty(block.stop - block.start, work.columns.shape[1])
    for index, place in enumerate(range(block.start, block.stop)):
        torch.div(work.round(place), factor[index, index], out=wrong[index])
        work.columns[place + 1 : block.stop].addr_(factor[index, index + 1 :], wrong[index], alpha=-1)
    return wrong
