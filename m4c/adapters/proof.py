"""What is proved of every adapter when it is exported: that it acts, as merged weights would, and leaves no trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m4c.adapters.folder import Adapter
from m4c.adapters.merge import merged
from m4c.adapters.off import require_base
from m4c.adapters.separate import factors
from m4c.cache import narrowed, real
from m4c.errors import NumbersError
from m4c.numerics import Difference, held_to, sqnr, worst
from m4c.plan import Plan
from m4c.precisions import BITS
from m4c.slots import Slot
from m4c.source import Source, TorchSource
from m4c.verify import FLOAT_FIX, Verification, compared, first_difference, run_each, with_stored

Array = np.ndarray

NOTHING_DB = 100.0
"""SQNR from which two outputs count as the same: float32, in another order of sums, leaves 110 to 150 dB."""


@dataclass(frozen=True)
class Proof:
    """How an artifact with an adapter compares with the source with merged weights, and what the adapter changes."""

    difference: Difference
    effect_db: float
    """SQNR in dB of the outputs without the adapter, taken for those with it: the less, the more it does."""


def prove(
    source: Source,
    model: ir.Model,
    read: frozenset[str],
    artifact: Path,
    slots: Sequence[Slot],
    plan: Plan,
    verified: Verification,
    signature: str,
) -> dict[str, Proof]:
    """Return the proof of each adapter of ``source`` that changes its graph, by name.

    ``artifact`` was emitted from ``model``. ``read`` are the keys of the weights that the graph reads, ``slots`` those of
    ``artifact``, and ``verified`` is of its ``signature`` without an adapter beside it.

    Raises:
        NumbersError: if an adapter changes nothing, or something else than merged weights would, or leaves a trace.
    """
    if not isinstance(source, TorchSource) or not source.adapters:
        return {}
    caches = narrowed(plan.cache, source.inputs, source.outputs)
    given = real(verified.inputs) if caches else verified.inputs
    if source.unmerged is None:
        return _beside(source, model, artifact, slots, plan, verified, given, signature)
    changing = [adapter for adapter in source.adapters if read & adapter.changed]
    if not changing:
        return {}
    without = replace(source, weights=source.unmerged).run(given)
    with_ = source.run(given) if plan.precision in BITS else verified.outputs
    effect = require_effect(source.name, changing, without, with_)
    return {adapter.name: Proof(verified.difference, effect) for adapter in changing}


def worse(some: Mapping[str, Proof], others: Mapping[str, Proof]) -> dict[str, Proof]:
    """Return the worse figures of each adapter that is in both, and those of the others."""
    both = {
        name: Proof(worst([some[name].difference, one.difference]), max(some[name].effect_db, one.effect_db))
        for name, one in others.items()
        if name in some
    }
    return {**some, **others, **both}


def _beside(
    source: TorchSource,
    model: ir.Model,
    artifact: Path,
    slots: Sequence[Slot],
    plan: Plan,
    verified: Verification,
    given: Mapping[str, Array],
    signature: str,
) -> dict[str, Proof]:
    """Run ``artifact`` with each adapter, and the source with it merged into the weights that the artifact stores."""
    reference = with_stored(source, artifact, plan.precision, signature)
    both = narrowed(plan.cache, source.inputs, source.outputs)
    held, presents = held_to(plan.precision, plan.cache), {present.name for _, present in both}
    filled = {adapter.name: factors(adapter, slots) for adapter in source.adapters}
    filling = [adapter for adapter in source.adapters if filled[adapter.name]]
    if not filling:
        return {}
    variants = [reference.weights, *(merged(reference.weights, [adapter]) for adapter in filling)]
    without, *with_ = reference.run_variants(variants, given)
    feeds = [{**verified.inputs, **filled[adapter.name]} for adapter in filling]
    ran = run_each(artifact, feeds, plan.precision, signature)
    require_base(artifact, slots, verified.inputs, signature)
    proofs = {}
    for number, (adapter, expected, made) in enumerate(zip(filling, with_, ran, strict=True)):
        effect = require_effect(source.name, [adapter], without, expected)
        found = compared(expected, real(made) if both else made, presents, plan.cache)
        if not found.within(held):
            raise NumbersError(
                f"{source.name} with adapter {adapter.name} differs from its source with merged weights: "
                f"{found}, allowed is {found.allowed(held)}",
                where=first_difference(
                    replace(source, weights=variants[number + 1]),
                    model,
                    artifact,
                    held,
                    given,
                    feeds[number],
                    signature=signature,
                ),
                fix=FLOAT_FIX,
            )
        proofs[adapter.name] = Proof(found, effect)
    return proofs


def require_effect(
    where: str, adapters: Sequence[Adapter], without: Mapping[str, Array], with_: Mapping[str, Array]
) -> float:
    """Return the least SQNR in dB of outputs ``without`` adapters, taken for those with them.

    Raises:
        NumbersError: if they are the same, but for rounding.
    """
    effect = min(sqnr(with_[name], without[name]) for name in with_)
    if effect >= NOTHING_DB:
        names = " and ".join(adapter.name for adapter in adapters)
        raise NumbersError(
            f"adapter {names} does nothing: {where} gives the same outputs without it ({effect:.0f} dB)",
            where=where,
            fix="train it, or leave it out",
        )
    return effect
