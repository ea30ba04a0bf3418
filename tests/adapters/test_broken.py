"""Adapters that cannot be right are refused, each with a message of its own, before anything is compiled."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m4c.adapters.configuration import CONFIG
from m4c.adapters.folder import FILE, PICKLE
from tests.adapters.peft_folders import Edit, Tensors, edited, trained
from tests.end_to_end.here import Export, capture_once, export

__all__ = ["capture_once", "export"]

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="session")
def sound(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter that is as it should be."""
    folder = tmp_path_factory.mktemp("sound")
    trained(folder, checkpoint, target_modules=["q_proj", "v_proj"])
    return folder


def wrong_base(table: dict[str, Any], tensors: Tensors) -> None:
    for name, values in tensors.items():
        if name.endswith("lora_A.weight"):
            tensors[name] = np.concatenate([values, values], axis=1)


def missing(table: dict[str, Any], tensors: Tensors) -> None:
    del tensors[f"{Q0}.lora_B.weight"]


def extra(table: dict[str, Any], tensors: Tensors) -> None:
    tensors["base_model.model.lm_head.weight"] = np.zeros((320, 64), np.float32)


def unasked(table: dict[str, Any], tensors: Tensors) -> None:
    for side in "AB":
        tensors[f"{Q0.replace('q_proj', 'k_proj')}.lora_{side}.weight"] = tensors[f"{Q0}.lora_{side}.weight"]


def wrong_rank(table: dict[str, Any], tensors: Tensors) -> None:
    table["r"] = 8


def unknown_type(table: dict[str, Any], tensors: Tensors) -> None:
    table["peft_type"] = "IA3"


def unknown_option(table: dict[str, Any], tensors: Tensors) -> None:
    table["use_qalora"] = True


def zero(table: dict[str, Any], tensors: Tensors) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = np.zeros_like(tensors[name])


def not_a_number(table: dict[str, Any], tensors: Tensors) -> None:
    tensors[f"{Q0}.lora_A.weight"][1, 1] = np.nan


def wrong_target(table: dict[str, Any], tensors: Tensors) -> None:
    table["target_modules"] = ["query_key_value"]


def damaged_pattern(table: dict[str, Any], tensors: Tensors) -> None:
    table["target_modules"] = "(q_proj"


EDITS: dict[str, tuple[Edit, int, str]] = {
    "wrong base": (wrong_base, 2, "the model wants 64 and rank 4"),
    "missing tensor": (missing, 2, "layers.0.self_attn.q_proj: up"),
    "extra tensor": (extra, 2, "1 tensor without a place:\n    lm_head.weight"),
    "unasked pair": (
        unasked,
        2,
        "1 tensor that no target_modules mean:\n    model.layers.0.self_attn.k_proj",
    ),
    "wrong rank": (wrong_rank, 2, "its rank is 8 in adapter_config.json"),
    "unknown type": (unknown_type, 2, "of type IA3, m4c reads LORA"),
    "unknown option": (unknown_option, 2, "the adapter uses use_qalora"),
    "zero B": (zero, 5, "does nothing: B is zero everywhere"),
    "NaN": (not_a_number, 2, "A of model.layers.0.self_attn.q_proj holds values that are not numbers"),
    "wrong target": (wrong_target, 2, "name no layer of the model"),
    "damaged pattern": (damaged_pattern, 2, "adapter_config.json is damaged"),
}


def refused(export: Export, code: int, reason: str, *options: object) -> None:
    done = export(*options)
    assert done.code == code, done.err
    assert reason in done.err
    assert "  fix: " in done.err
    assert "Traceback" not in done.err
    assert not done.out.exists()


@pytest.mark.parametrize("mode", ["merge", "separate"])
@pytest.mark.parametrize(("edit", "code", "reason"), EDITS.values(), ids=EDITS)
def test_contents(
    export: Export,
    checkpoint: Path,
    sound: Path,
    tmp_path: Path,
    edit: Edit,
    code: int,
    reason: str,
    mode: str,
) -> None:
    folder = edited(sound, tmp_path / "adapter", edit)
    refused(export, code, reason, "--weights", checkpoint, "--adapter", f"one={folder}", "--adapters", mode)


def truncated(folder: Path) -> None:
    os.truncate(folder / FILE, (folder / FILE).stat().st_size // 2)


def pickled(folder: Path) -> None:
    (folder / FILE).unlink()
    torch.save({"a": torch.zeros(1)}, folder / PICKLE)


def outside(folder: Path) -> None:
    (folder / FILE).rename(folder.parent / "elsewhere.safetensors")
    (folder / FILE).symlink_to(folder.parent / "elsewhere.safetensors")


def no_weights(folder: Path) -> None:
    (folder / FILE).unlink()


def no_configuration(folder: Path) -> None:
    (folder / CONFIG).unlink()


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "not a readable safetensors file"),
    "pickle": (pickled, "adapter_model.bin is a pickle, which is not read unasked"),
    "path outside": (outside, "adapter_model.safetensors is a link to a file outside its folder"),
    "no weights": (no_weights, "there is no adapter_model.safetensors"),
    "no configuration": (no_configuration, "holds no adapter for backbone"),
}


@pytest.mark.parametrize(("change", "reason"), FILES.values(), ids=FILES)
def test_files(
    export: Export, checkpoint: Path, sound: Path, tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    folder = edited(sound, tmp_path / "adapter", lambda table, tensors: None)
    change(folder)
    refused(export, 2, reason, "--weights", checkpoint, "--adapter", f"one={folder}", "--adapters", "merge")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("--adapter", "one={0}", "--adapter", "one={0}", "--adapters", "merge"),
            "two adapters are called one",
        ),
        (("--adapter", "../one={0}", "--adapters", "merge"), "--adapter ../one="),
        (("--adapter", "one={0}/none", "--adapters", "merge"), "there is no adapter one at"),
        (("--adapter", "one={0}"), "it is not said what becomes of the adapters"),
        (("--adapters", "merge"), "there are no adapters"),
        (("--rank-limit", "8"), "there are no adapters"),
        (("--adapter", "one={0}", "--adapters", "merge", "--rank-limit", "8"), "is for --adapters separate"),
        (
            ("--adapter", "one={0}", "--adapters", "separate", "--rank-limit", "8"),
            "in ONNX a slot takes any rank",
        ),
        (
            (*("--adapter", "one={0}", "--adapters", "separate"), "--format", "tflite", "--rank-limit", "3"),
            "adapter one has rank 4 at model.layers.0.self_attn.q_proj, beyond --rank-limit 3",
        ),
        (("--adapter", "one={0}:0", "--adapters", "merge"), "the weight of one is 0.0"),
        (("--adapter", "one={0}:2", "--adapters", "separate"), "one has a weight, but stays beside"),
        (
            (
                "--adapter",
                "one={0}",
                "--adapters",
                "separate",
                *("--quantize", "int8", "--calibration", "random"),
            ),
            "there are no slots for adapters in int8",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options(
    export: Export, checkpoint: Path, sound: Path, options: tuple[str, ...], reason: str
) -> None:
    refused(export, 2, reason, "--weights", checkpoint, *(option.format(sound) for option in options))


def test_an_adapter_of_another_graph_is_refused(export: Export, checkpoint: Path, sound: Path) -> None:
    done = export(
        "--weights", checkpoint, "--adapter", f"one={sound}", "--adapters", "merge", graph="backbone/embed"
    )
    assert done.code == 2
    assert "adapter one changes no graph that is exported" in done.err


def test_what_only_merges_is_refused_beside(export: Export, checkpoint: Path, tmp_path: Path) -> None:
    trained(tmp_path / "dora", checkpoint, target_modules=["q_proj"], use_dora=True)
    given = ("--weights", checkpoint, "--adapter", f"one={tmp_path / 'dora'}", "--adapters", "separate")
    refused(export, 2, "the lengths of rows (DoRA) of model.layers.0.self_attn.q_proj", *given)


def test_a_pickle_is_read_where_it_is_asked_for(
    export: Export, checkpoint: Path, sound: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    folder = edited(sound, tmp_path / "adapter", lambda table, tensors: None)
    torch.save(load_file(folder / FILE), folder / PICKLE)
    (folder / FILE).unlink()
    given = ("--weights", checkpoint, "--adapter", f"one={folder}", "--adapters", "merge", "--adapter-pickle")
    done = export(*given)
    assert done.code == 0, done.err
