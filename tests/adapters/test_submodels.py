"""Adapters that PEFT made of other sub-models: packed projections of an encoder, Whisper, a U-Net, a single linear layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from m4c.adapters.folder import open_adapter
from m4c.adapters.given import Given
from m4c.adapters.merge import merged
from m4c.adapters.places import PACKED, PARTS
from m4c.adapters.separate import slots_of
from m4c.bundle import read_manifest
from m4c.checkpoints.random import random_weights
from m4c.match import match
from m4c.models import build
from m4c.skeleton import skeleton
from m4c.weights import Array, array
from tests.adapters.peft_folders import adapt
from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]


def unpacked(source: nn.Module) -> nn.Module:
    """Give every packed projection of ``source`` its three parts as layers that PEFT finds, instead of one matrix."""
    for module in list(source.modules()):
        packed = module._parameters.pop(PACKED, None)
        if packed is not None:
            for name, rows in zip(PARTS, packed.chunk(len(PARTS)), strict=True):
                part = nn.Linear(packed.shape[1], len(rows), bias=False)
                part.weight = nn.Parameter(rows.clone())
                module.add_module(name, part)
    return source


def packed(state: dict[str, Array]) -> dict[str, Array]:
    """Return ``state`` with the parts of packed projections put together again."""
    made, first = dict(state), f".{PARTS[0]}.weight"
    for path in [name.removesuffix(first) for name in state if name.endswith(first)]:
        made[f"{path}.{PACKED}"] = np.concatenate([made.pop(f"{path}.{name}.weight") for name in PARTS])
    return made


CASES = {
    "imu_enc/encoder": ("", ["q_proj", "v_proj", "fc1"], ("--format", "tflite", "--quantize", "int4")),
    "projection/linear": ("", ["linear"], ("--quantize", "int8-weights")),
    "aud_i_enc/cross": (
        "",
        ["k_proj", "v_proj", "fc1"],
        ("--format", "tflite", "--quantize", "int8-weights"),
    ),
    "img_dec/unet": ("unet", ["to_q", "to_v"], None),
}
"""By graph: the part that PEFT trains, its target modules, and how it is exported; a U-Net takes too long here."""


@pytest.mark.parametrize("graph", CASES)
def test_other_submodels_take_what_peft_saves(graph: str, export: Export, tmp_path: Path) -> None:
    submodel, root, (part, targets, options) = graph.partition("/")[0], tmp_path / "a", CASES[graph]
    with skeleton():
        made = build(submodel, "m4-nano")
    weights = match(made, random_weights(made.source, 0))
    real = build(submodel, "m4-nano").source
    real.load_state_dict({name: torch.from_numpy(array(weights[name]).copy()) for name in real.state_dict()})
    trained = real.get_submodule(part)
    if submodel == "imu_enc":
        expected = packed(adapt(unpacked(trained), root, target_modules=targets))
    else:
        expected = adapt(trained, root, target_modules=targets)
    adapter = open_adapter(Given("a", str(root)), root, made, weights)
    prefix = f"{part}." if part else ""
    found = merged(weights, [adapter])
    assert {f"{prefix}{name}" for name in expected} == {name for name in found if name.startswith(prefix)}
    changed = 0
    for name, values in expected.items():
        np.testing.assert_allclose(array(found[prefix + name]), values, rtol=1e-6, atol=1e-6, err_msg=name)
        changed += not np.array_equal(values, array(weights[prefix + name]))
    assert changed == len(adapter.changed)

    slots = slots_of([adapter])
    assert {slot.module.rpartition(".")[2] for slot in slots} == set(targets)
    if options is None:
        return
    done = export("--adapter", f"a={root}", "--adapters", "separate", *options, graph=graph)
    assert done.code == 0, done.err
    (record,) = read_manifest(done.out).submodels[0].adapters
    proof = record.verification[graph]
    assert proof.max_relative_error < 1e-4
    assert proof.effect_db is not None
    assert proof.effect_db < 60
    own = {slot.module for slot in slots if graph != "aud_i_enc/cross" or "encoder_attn" in slot.module}
    assert {slot.module for slot in done.graph.slots} == own
