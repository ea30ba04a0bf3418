"""Quantized checkpoints against a packer written from the formats' description: m4c/checkpoints/quantized.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import save_file

from m4c.blockwise import BlockwiseWeight
from m4c.checkpoints import open_checkpoint
from m4c.errors import CheckpointError
from m4c.grid import Grid
from m4c.weights import Recipe, array
from tests.checkpoints.packing import awq, awq_settings, gptq, gptq_settings, made, put

Tensors = dict[str, np.ndarray]


def opened(folder: Path, name: str = "l") -> tuple[Recipe, BlockwiseWeight]:
    """Open a folder with one matrix."""
    found = open_checkpoint(folder)
    assert set(found) == {f"{name}.weight"}
    weight = found[f"{name}.weight"]
    assert isinstance(weight, Recipe)
    assert isinstance(weight.origin, BlockwiseWeight)
    return weight, weight.origin


def assert_stands_for(weight: Recipe, values: np.ndarray) -> None:
    """Check all values, and some rows that begin and end within words, exactly."""
    assert (weight.dtype, tuple(weight.shape)) == (ir.DataType.FLOAT, values.shape)
    np.testing.assert_array_equal(array(weight), values)
    for rows in (slice(3, 13), slice(8, 9), slice(0, 16), slice(values.shape[0] - 5, values.shape[0])):
        np.testing.assert_array_equal(weight.part(rows), values[rows])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (4, -1), (8, 32), (8, -1)])
def test_gptq(
    version: int, sym: bool, desc_act: bool, bits: int, group: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    matrix = made(rng, 128, 40, group, bits, sym=sym, desc_act=desc_act)
    form = "gptq" if version == 1 else "gptq_v2"
    settings = gptq_settings(bits=bits, group_size=group, sym=sym, desc_act=desc_act, checkpoint_format=form)
    weight, origin = opened(put(tmp_path, gptq("l", matrix, version), settings))
    assert_stands_for(weight, matrix.values())
    assert origin.grid == Grid(bits, None if group == -1 else group, sym)
    assert (origin.order is not None) == (desc_act and group != -1)


def test_codes_are_the_checkpoint_s_own(tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = made(rng, 64, 16, 32, desc_act=True)
    _, origin = opened(put(tmp_path, gptq("l", matrix), gptq_settings(desc_act=True)))
    blocks = origin.rows(slice(0, 16))
    by_group = np.argsort(matrix.groups, kind="stable")
    np.testing.assert_array_equal(origin.order, by_group)
    np.testing.assert_array_equal(blocks.codes.numpy(), matrix.codes[by_group].T)
    np.testing.assert_array_equal(blocks.zeros.numpy(), matrix.zeros.T)
    np.testing.assert_array_equal(blocks.scales.numpy(), matrix.scales.T.astype(np.float32))


@pytest.mark.parametrize("group", [32, 64, -1])
def test_awq(group: int, tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = made(rng, 128, 40, group)
    matrix.zeros[0, :3] = 0, 15, 8
    weight, origin = opened(put(tmp_path, awq("l", matrix), awq_settings(group_size=group)))
    assert_stands_for(weight, matrix.values())
    assert origin.grid == Grid(4, None if group == -1 else group, symmetric=False)
    assert origin.order is None


def test_zero_points_decide_whether_a_grid_is_symmetric(tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = made(rng, 64, 16, 32, sym=True)
    folder = put(tmp_path, gptq("l", matrix), gptq_settings(sym=False))
    assert not opened(folder)[1].grid.symmetric
    matrix.zeros[1, 5] = 9
    weight, origin = opened(put(tmp_path, gptq("l", matrix), gptq_settings(sym=True)))
    assert not origin.grid.symmetric
    assert_stands_for(weight, matrix.values())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_greatest_and_the_least_zero_points(bits: int, tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = made(rng, 64, 16, 32, bits)
    top = (1 << bits) - 1
    matrix.zeros[0, :2] = 0, top
    second = gptq_settings(bits=bits, checkpoint_format="gptq_v2")
    assert_stands_for(opened(put(tmp_path, gptq("l", matrix, 2), second))[0], matrix.values())
    matrix.zeros[0, :2] = 1, top + 1
    with pytest.raises(CheckpointError, match=f"l has a zero point of {top + 1}") as caught:
        open_checkpoint(put(tmp_path, gptq("l", matrix), gptq_settings(bits=bits)))
    assert "gptq_v2" in caught.value.fix


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_scales_of_other_floats(dtype: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = made(rng, 64, 16, 32)
    tensors = {name: torch.from_numpy(held) for name, held in gptq("l", matrix).items()}
    scales = matrix.scales.astype(dtype)
    kind = torch.bfloat16 if dtype is ml_dtypes.bfloat16 else torch.float32
    tensors["l.scales"] = torch.from_numpy(scales.astype(np.float32)).to(kind)
    torch.save(tensors, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": gptq_settings()}))
    again = type(matrix)(matrix.codes, matrix.zeros, scales.astype(np.float32), matrix.groups, 4)
    assert_stands_for(opened(tmp_path)[0], again.values())


@pytest.mark.parametrize(
    ("file", "settings", "pack"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": False}, gptq),
        ("quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}, awq),
    ],
)
def test_the_quantizers_own_files(
    file: str,
    settings: dict[str, object],
    pack: Callable[..., Tensors],
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    matrix = made(rng, 64, 16, 32)
    save_file(pack("l", matrix), tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(settings))
    assert_stands_for(opened(tmp_path)[0], matrix.values())
    assert_stands_for(opened(tmp_path / "model.safetensors")[0], matrix.values())


def test_what_is_not_packed_stays(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = gptq("a.l", made(rng, 64, 16, 32), g_idx=False)
    tensors |= {"a.l.bias": np.ones(16, np.float16), "norm.weight": np.ones(4, np.float32)}
    found = open_checkpoint(put(tmp_path, tensors, gptq_settings()))
    assert set(found) == {"a.l.weight", "a.l.bias", "norm.weight"}
    assert found["a.l.bias"].dtype == ir.DataType.FLOAT16


def test_zeros_for_biases_that_the_model_has_not(tmp_path: Path, rng: np.random.Generator) -> None:
    names = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj")
    tensors: Tensors = {}
    for name in names:
        tensors |= gptq(name, made(rng, 64, 16, 32)) | {f"{name}.bias": np.zeros(16, np.float16)}
    folder = put(tmp_path, tensors, gptq_settings(), model_type="llama", attention_bias=True)
    assert f"{names[0]}.bias" in open_checkpoint(folder)
    assert f"{names[1]}.bias" not in open_checkpoint(folder)
    tensors[f"{names[1]}.bias"][3] = 1
    folder = put(tmp_path, tensors, gptq_settings(), model_type="llama", attention_bias=True)
    assert f"{names[1]}.bias" in open_checkpoint(folder)


def test_scales_that_are_not_finite(tmp_path: Path, rng: np.random.Generator) -> None:
    matrix = made(rng, 64, 16, 32)
    matrix.scales[1, 9] = np.nan
    weight, _ = opened(put(tmp_path, gptq("l", matrix), gptq_settings()))
    assert np.isfinite(weight.part(slice(0, 9))).all()
    with pytest.raises(CheckpointError, match="l has scales that are not finite"):
        weight.part(slice(9, 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (gptq_settings(bits=3), "GPTQ of 3 bits"),
        (gptq_settings(bits=2), "GPTQ of 2 bits"),
        (gptq_settings(bits="4"), "GPTQ of '4' bits"),
        (gptq_settings(bits=True), "GPTQ of True bits"),
        (gptq_settings(group_size=96), "in groups of 96"),
        (gptq_settings(group_size=0), "in groups of 0"),
        (gptq_settings(group_size=None), "in groups of None"),
        (gptq_settings(sym=1), "sym is 1"),
        (gptq_settings(checkpoint_format="marlin"), "of the format 'marlin'"),
        (gptq_settings(is_marlin_format=True), "of the format 'marlin'"),
        (gptq_settings(dynamic={"-:down": {}}), "settings of their own"),
        (gptq_settings(pack_dtype="int16"), "packed in 'int16'"),
        (awq_settings(version="gemv"), "AWQ of the version 'gemv'"),
        (awq_settings(bits=8), "AWQ of 8 bits"),
        (awq_settings(zero_point=False), "AWQ without zero points"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized by 'bitsandbytes'"),
        ({"quant_method": "fp8"}, "quantized by 'fp8'"),
        ({"quant_method": "compressed-tensors"}, "quantized by 'compressed-tensors'"),
        ({"quant_method": "exl2"}, "quantized by 'exl2'"),
        ({"quant_method": ["gptq"]}, r"quantized by \['gptq'\]"),
        ({"load_in_8bit": True}, "quantized by None"),
        ([], "quantization_config is a list"),
    ],
)
def test_settings_that_are_refused(
    settings: object, message: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = put(tmp_path, gptq("l", made(rng, 64, 16, 32)), settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    assert caught.value.where == str(folder / "config.json")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("l.scales"), r"l\.qweight is there, but not l\.scales"),
        (lambda t: t.pop("l.qzeros"), r"but not l\.qzeros"),
        (lambda t: t.pop("l.g_idx"), r"l\.g_idx is missing, though desc_act"),
        (lambda t: t.update({"l.weight": t["l.scales"]}), r"l\.weight and l\.qweight are both there"),
        (lambda t: t.update({"l.qweight": t["l.qweight"][0]}), r"l\.qweight is INT32\[16\]"),
        (lambda t: t.update({"l.qweight": t["l.qweight"].view(np.float32)}), r"l\.qweight is FLOAT\[8, 16\]"),
        (lambda t: t.update({"l.qweight": t["l.qweight"][:0]}), r"l\.qweight is INT32\[0, 16\]"),
        (
            lambda t: t.update({"l.qweight": t["l.qweight"][:5]}),
            "l has 40 inputs, which are not whole groups",
        ),
        (lambda t: t.update({"l.qweight": t["l.qweight"][:, :15].copy()}), "15 outputs, which are not whole"),
        (
            lambda t: t.update({"l.qzeros": t["l.qzeros"][:1]}),
            r"l\.qzeros is INT32\[1, 2\], not INT32\[2, 2\]",
        ),
        (lambda t: t.update({"l.scales": t["l.scales"].T.copy()}), r"l\.scales is FLOAT16\[16, 2\]"),
        (lambda t: t.update({"l.scales": t["l.scales"].view(np.int16)}), r"l\.scales is INT16"),
        (lambda t: t.update({"l.g_idx": t["l.g_idx"][:9]}), r"l\.g_idx is INT32\[9\], not INT32\[64\]"),
        (lambda t: t.update({"l.g_idx": t["l.g_idx"].astype(np.float32)}), r"l\.g_idx is FLOAT\[64\]"),
        (lambda t: t["l.g_idx"].__setitem__(3, 2), r"l\.g_idx names groups 0…2, there are 2"),
        (lambda t: t["l.g_idx"].__setitem__(3, -1), r"l\.g_idx names groups -1…1"),
        (lambda t: t["l.g_idx"].fill(1), r"l\.g_idx makes groups of unequal size"),
    ],
)
def test_tensors_that_do_not_agree(
    change: Callable[[Tensors], object], message: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = gptq("l", made(rng, 64, 16, 32, desc_act=True))
    change(tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(put(tmp_path, tensors, gptq_settings(desc_act=True)))
    assert caught.value.where == "l"
    assert caught.value.fix


def test_packed_without_a_word_of_how(tmp_path: Path, rng: np.random.Generator) -> None:
    save_file(gptq("l", made(rng, 64, 16, 32)), tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"l\.qweight is packed, but nothing says how"):
            open_checkpoint(path)


@pytest.mark.parametrize("text", ["{", "[]", "", "[" * 100_000, '{"a": ' + "9" * 9999 + "}", "\udcff"])
def test_a_configuration_that_is_none(text: str, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = put(tmp_path, gptq("l", made(rng, 64, 16, 32)), gptq_settings())
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        CheckpointError, match=r"config\.json (is not a readable JSON file|holds a list)"
    ) as caught:
        open_checkpoint(folder)
    assert caught.value.where == str(folder / "config.json")


def test_a_configuration_of_endless_size(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="larger than 64 MiB"):
        open_checkpoint(tmp_path)
