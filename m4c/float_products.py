"""Run a TFLite artifact whose weights alone are integers, of any size: a piece at a time, its products in float.

LiteRT multiplies by such weights with activations that it rounds to 8 bits at run time, so no result could be held against
float numbers closely. Therefore each product is computed here in float, from the codes and scales in the file, and everything
else by LiteRT. What LiteRT's own kernel makes of a product is held against that one alone, on the input it really gets:
rounding errors of 8 bits, and no more, may be between the two, and nothing adds up.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from m4c.blockwise import BlockwiseWeight
from m4c.eager import linear
from m4c.errors import NumbersError
from m4c.layouts import restored
from m4c.read_back_tflite import factor
from m4c.runners import TfliteRunner
from m4c.runs import cut
from m4c.segments import SEGMENT_BYTES
from m4c.slots import with_factors
from m4c.targets.emit_tflite.file import write
from m4c.targets.emit_tflite.flat import SIGNATURE, ByChannel, Content, Flat, Grouped, Tensor
from m4c.targets.emit_tflite.opened import Opened
from m4c.weights import array, lazy, part, spans

Array = np.ndarray
Recorder = Callable[[str, Array], None]
_Values = dict[int, Array]
"""By the indices of their tensors."""

MOST_STEPS = 1.0
"""Largest root mean square difference of a product, in steps: of the input's 8 bits, times the norm of a row of weights.

Errors of ±½ step that know nothing of each other give 0.29, which is what LiteRT's kernels show.
"""

SAMPLED = 2
"""Stretches of rows of a matrix that LiteRT's kernel is run on."""


@dataclass(frozen=True)
class Ran:
    """What a run made."""

    outputs: dict[str, Array]
    steps: float | None
    """The largest difference of a product by LiteRT's kernel, in steps; see :data:`MOST_STEPS`. None if none was looked at."""


def run_in_float(
    path: Path,
    inputs: Mapping[str, Array],
    recorder: Recorder | None = None,
    *,
    check: bool = False,
    signature: str = SIGNATURE,
) -> Ran:
    """Return the outputs of the artifact at ``path`` by name; ``recorder`` hears what pieces make, by the names of the values,
    and then the outputs.

    ``check``: hold LiteRT's kernel of every product against the product.

    Raises:
        NumbersError: for the first that differs by more than :data:`MOST_STEPS`.
    """
    opened = Opened(path, signature)
    makers = {index: operator for operator in opened.operators for index in operator.outputs}
    steps: list[float] = []

    def compute(run: list[Any], outputs: list[int], alive: Mapping[int, Array], place: Path) -> _Values:
        weight = factor(opened, run[0], makers) if len(run) == 1 else None
        if weight is None:
            return _run(opened.piece(run, outputs), place, alive)
        x = alive[run[0].inputs[0]]
        made = _product(opened, run[0], weight, x)
        if check:
            steps.append(_kernel_steps(opened, run[0], weight, x, made, place))
        return {run[0].outputs[0]: made}

    outputs = _work_through(opened, inputs, compute, alone=True, recorder=recorder)
    if recorder is not None:
        for name, value in outputs.items():
            recorder(name, value)
    return Ran(outputs, max(steps, default=None))


def run_in_pieces(opened: Opened, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of a file by name, all computed by LiteRT, a piece at a time; a small file is one piece."""

    def compute(run: list[Any], outputs: list[int], alive: Mapping[int, Array], place: Path) -> _Values:
        return _run(opened.piece(run, outputs), place, alive)

    return _work_through(opened, inputs, compute, alone=False)


def _work_through(
    opened: Opened,
    inputs: Mapping[str, Array],
    compute: Callable[[list[Any], list[int], Mapping[int, Array], Path], _Values],
    *,
    alone: bool,
    recorder: Recorder | None = None,
) -> dict[str, Array]:
    """Let ``compute`` make what runs of operators make, from the values that are ``alive``; return the outputs by name."""
    runs = list(_runs(opened, alone))
    last = {i: n for n, run in enumerate(runs) for operator in run for i in operator.inputs}
    wanted = set(opened.outputs.values())
    given = with_factors(inputs, {name: opened.tensors[index].shape for name, index in opened.inputs.items()})
    alive = {index: given[name] for name, index in opened.inputs.items()}
    path = opened.path
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.pieces-", dir=path.parent) as folder:
        for number, run in enumerate(runs):
            outputs = [i for o in run for i in o.outputs if last.get(i, -1) > number or i in wanted]
            alive |= compute(run, outputs, alive, Path(folder) / "piece.tflite")
            for index in {i for operator in run for i in operator.outputs} & alive.keys():
                if recorder is not None:
                    recorder(*restored(opened.tensors[index].name, alive[index]))
            for index in [i for i in alive if last.get(i, -1) <= number and i not in wanted]:
                del alive[index]
    return {name: alive[index] for name, index in opened.outputs.items()}


def _runs(opened: Opened, alone: bool) -> Iterator[list[Any]]:
    """Cut the operators into runs of a limited size of weights; ``alone``: each product by integers is one of its own."""

    def held(operator: Any) -> list[Tensor]:
        return [opened.tensors[i] for i in operator.inputs if opened.stored(i)]

    return cut(
        opened.operators,
        size_of=lambda operator: sum(tensor.nbytes for tensor in held(operator)),
        limit=SEGMENT_BYTES,
        alone=lambda operator: alone and any(tensor.weights is not None for tensor in held(operator)),
    )


def _run(flat: Flat, path: Path, alive: Mapping[int, Array]) -> dict[int, Array]:
    """Write a piece, run it in LiteRT, remove it, and return its outputs by their tensors' indices."""
    write({SIGNATURE: flat}, path)
    try:
        made = TfliteRunner(path).run({name: alive[int(name)] for name, _ in flat.inputs})
    finally:
        path.unlink()  # a file that is replaced would be flushed to the disk
    return {int(name): value for name, value in made.items()}


def _product(opened: Opened, operator: Any, weight: BlockwiseWeight, x: Array) -> Array:
    """Return the product of ``x`` (…, inputs) in float."""
    bias = opened.source(operator.inputs[2]) if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    # columns as they lie in the file: x was put in their order by the operator before
    plain = BlockwiseWeight(weight.name, weight.shape, weight.grid, weight.rows, step=weight.step)
    with torch.no_grad():
        return linear(plain.dequantized(), bias, torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _kernel_steps(
    opened: Opened, operator: Any, weight: BlockwiseWeight, x: Array, wanted: Array, path: Path
) -> float:
    """Return how far LiteRT's kernel is from ``wanted`` on some stretches of rows, or raise if that is too far."""
    reach = np.maximum(x.max(-1, keepdims=True), 0) - np.minimum(x.min(-1, keepdims=True), 0)
    worst = 0.0
    stretches = spans(weight.shape[0], weight.step)
    for rows in (stretches[int(i)] for i in np.linspace(0, len(stretches) - 1, min(SAMPLED, len(stretches)))):
        (made,) = _run(_rows(opened, operator, rows), path, {0: x}).values()
        norms = weight.rows(rows).dequantized().square().sum(1).sqrt().numpy()
        step = reach / 255 * norms
        apart = np.abs(made - wanted[..., rows])
        noise = np.maximum(step, 1e-6 * np.abs(wanted[..., rows]) + np.finfo(np.float32).tiny)
        found = float(np.sqrt(np.mean(np.square(apart / noise))))
        if not found <= MOST_STEPS:
            raise NumbersError(
                f"LiteRT's kernel for {weight.name} differs from the product by {found:.1f} steps, "
                f"allowed is {MOST_STEPS:g}",
                where=f"{weight.name}, rows {rows.start} to {rows.stop - 1}",
                fix="this is a bug of m4c or of the runtime: report it, or try --format onnx",
            )
        worst = max(worst, found)
    return worst


def _rows(opened: Opened, operator: Any, rows: slice) -> Flat:
    """Return a product by some rows of its matrix; its input is called 0, its output 1."""
    whole = opened.piece([operator], operator.outputs)
    count = rows.stop - rows.start
    flat = Flat("rows", operators=whole.operators, codes=whole.codes)
    stored = {i for i in whole.operators[0].inputs[1:] if i >= 0}
    stored |= {t.weights.scales for t in whole.tensors if isinstance(t.weights, Grouped)}
    for index, tensor in enumerate(whole.tensors):
        if index in stored:
            flat.tensor(_sliced(tensor, rows))
        elif index == whole.outputs[0][1]:
            flat.tensor(replace(tensor, shape=(*tensor.shape[:-1], count)))
        else:
            flat.tensor(tensor)
    flat.inputs = [("0", whole.inputs[0][1])]
    flat.outputs = [("1", whole.outputs[0][1])]
    return flat


def _sliced(tensor: Tensor, rows: slice) -> Tensor:
    """Return rows of a stored tensor."""
    assert tensor.content is not None
    source, count = tensor.content.source, rows.stop - rows.start
    cut = lazy(
        tensor.name, source.dtype, (count, *source.shape.numpy()[1:]), lambda: np.array(part(source, rows))
    )
    weights = tensor.weights
    if isinstance(weights, ByChannel):
        weights = ByChannel(ir.tensor(array(weights.scales)[rows]))
    return replace(tensor, shape=(count, *tensor.shape[1:]), content=Content(cut), weights=weights)
