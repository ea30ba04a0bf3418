"""Merged weights against PEFT's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m4c.adapters.folder import Adapter, open_adapter
from m4c.adapters.given import Given
from m4c.adapters.merge import merged
from m4c.errors import UsageError
from m4c.models.graph import Submodel
from m4c.weights import Array, Recipe, array, divisible, part, spans
from tests.adapters.peft_folders import trained

Weights = dict[str, Recipe]
QV: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}

KINDS: dict[str, dict[str, Any]] = {
    "queries and values": QV,
    "all linear": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "patterns": {
        "target_modules": r".*layers\.[12]\..*_proj",
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {"v_proj": 3},
    },
    "rank-stabilized": {"target_modules": ["o_proj"], "use_rslora": True},
    "some layers": {"target_modules": ["o_proj"], "layers_to_transform": [0, 3], "layers_pattern": "layers"},
    "DoRA": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "tables": {"target_modules": ["embed_tokens", "lm_head"]},
    "a whole head": {**QV, "modules_to_save": ["lm_head"]},
    "fan in, fan out": {**QV, "fan_in_fan_out": True},
}


def opened(folder: Path, submodel: Submodel, weights: Weights, weight: float = 1.0) -> Adapter:
    return open_adapter(Given("a", str(folder), weight), folder, submodel, weights)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT: it saves tables too, and mends fan_in_fan_out
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_weights_are_those_that_peft_merges(
    checkpoint: Path, backbone: Submodel, weights: Weights, tmp_path: Path, options: dict[str, Any]
) -> None:
    expected = trained(tmp_path, checkpoint, **options)
    made = merged(weights, [opened(tmp_path, backbone, weights)])
    assert set(made) == set(expected)
    changed = [name for name in made if not np.array_equal(array(weights[name]), expected[name])]
    assert changed
    for name, values in expected.items():
        np.testing.assert_allclose(array(made[name]), values, rtol=1e-6, atol=1e-6, err_msg=name)
    for name in changed:
        assert divisible(made[name]), name
        pieces = [part(made[name], rows) for rows in spans(len(expected[name]), 37)]
        np.testing.assert_allclose(np.concatenate(pieces), expected[name], rtol=1e-6, atol=1e-6)


def test_several_add_up_by_their_weights(
    checkpoint: Path, backbone: Submodel, weights: Weights, tmp_path: Path
) -> None:
    first = trained(tmp_path / "a", checkpoint, seed=1, **QV)
    second = trained(tmp_path / "b", checkpoint, seed=2, target_modules=["q_proj", "k_proj"], r=2)
    both = [opened(tmp_path / "a", backbone, weights, 0.5), opened(tmp_path / "b", backbone, weights, -2)]
    made = merged(weights, both)
    for name, values in first.items():
        before = array(weights[name])
        expected = before + 0.5 * (values - before) - 2 * (second[name] - before)
        np.testing.assert_allclose(array(made[name]), expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("options", "weight", "reason"),
    [
        ({"target_modules": ["q_proj"], "use_dora": True}, 0.5, "rescaled by DoRA"),
        ({**QV, "modules_to_save": ["lm_head"]}, 0.5, "lm_head.weight is stored whole"),
        ({"target_modules": ["q_proj"], "use_dora": True}, 1, "do not add up"),
        ({**QV, "modules_to_save": ["lm_head"]}, 1, "do not add up"),
    ],
)
def test_what_is_no_sum_does_not_mix(
    checkpoint: Path,
    backbone: Submodel,
    weights: Weights,
    tmp_path: Path,
    options: dict[str, Any],
    weight: float,
    reason: str,
) -> None:
    trained(tmp_path, checkpoint, **options)
    one = opened(tmp_path, backbone, weights, weight)
    with pytest.raises(UsageError, match=reason):
        merged(weights, [replace(one, name="other", weight=1.0), one])


def test_nothing_is_read_before_it_is_needed(
    backbone: Submodel, weights: Weights, checkpoint: Path, tmp_path: Path
) -> None:
    trained(tmp_path, checkpoint, **QV)
    adapter = opened(tmp_path, backbone, weights)

    def fail() -> Array:
        raise AssertionError("a weight was read")

    unread = {
        name: Recipe(name, tensor.dtype, tuple(tensor.shape.numpy()), fail)
        for name, tensor in weights.items()
    }
    made = merged(unread, [adapter])
    with pytest.raises(AssertionError, match="was read"):
        array(made["model.layers.0.self_attn.q_proj.weight"])


@pytest.mark.parametrize(("rank", "parameters"), [(4, 2_097_152), (32, 16_777_216)])
def test_the_papers_numbers_of_parameters(tmp_path: Path, rank: int, parameters: int) -> None:
    """Queries and values of LLaMA-7B; no weight of it exists."""
    import json

    from safetensors.torch import save_file

    from m4c.adapters.configuration import CONFIG
    from m4c.adapters.folder import FILE
    from m4c.models import build
    from m4c.skeleton import skeleton

    with skeleton():
        submodel = build("backbone", "m4")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, **QV}
    (tmp_path / CONFIG).write_text(json.dumps(settings), "utf-8")
    pairs = {
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_{side}.weight": torch.ones(shape)
        for layer in range(32)
        for part in "qv"
        for side, shape in (("A", (rank, 4096)), ("B", (4096, rank)))
    }
    save_file(pairs, tmp_path / FILE)
    assert opened(tmp_path, submodel, {}).parameters == parameters
