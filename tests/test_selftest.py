"""A bundle checked where it is: damage and wrong numbers are found, also behind a manifest that agrees with itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from m4c.bundle import read_manifest
from m4c.errors import BundleError, NumbersError, UsageError
from m4c.numerics import TOLERANCE
from m4c.selftest import selftest
from tests.bundles import Copy, update_hash

HEAD = "gen_dec/head"


def change_vector(folder: Path, **changes: np.ndarray | None) -> None:
    """Change arrays of gen_dec's test vector and let the manifest vouch for it; None takes one away."""
    record = read_manifest(folder).graph(HEAD).vector
    arrays = {**load_file(folder / record.path), **{k.replace("_", "."): v for k, v in changes.items()}}
    save_file({name: values for name, values in arrays.items() if values is not None}, folder / record.path)
    old, new = record.bytes, (folder / record.path).stat().st_size
    if old != new:
        text = (folder / "manifest.json").read_text("utf-8")
        (folder / "manifest.json").write_text(text.replace(f'"bytes": {old}', f'"bytes": {new}'), "utf-8")
    update_hash(folder, record)


def test_a_whole_bundle_has_figures(float_bundle: Path, int8_bundle: Path) -> None:
    found = selftest(read_manifest(float_bundle), float_bundle)
    assert [result.graph for result in found] == ["projection/linear", HEAD]
    assert all(result.difference.max_relative < TOLERANCE["float32"] for result in found)
    (integer,) = selftest(read_manifest(int8_bundle), int8_bundle)
    assert 15 < integer.difference.sqnr_db < 80


def test_the_bound_is_the_one_that_the_bundle_was_built_with(int8_bundle: Path) -> None:
    manifest = read_manifest(int8_bundle)
    (submodel,) = manifest.submodels
    (graph,) = submodel.graphs
    bound = replace(graph, verification=replace(graph.verification, min_sqnr_db=90.0))
    with pytest.raises(NumbersError, match="allowed is SQNR of at least 90 dB"):
        selftest(replace(manifest, submodels=(replace(submodel, graphs=(bound,)),)), int8_bundle)


def test_one_byte_of_a_weight(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    path = folder / "graphs" / "gen_dec" / "weights.bin"
    content = bytearray(path.read_bytes())
    content[1003] ^= 0x40  # the exponent of a float32
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights.bin was altered"):
        selftest(read_manifest(folder), folder)
    (record,) = read_manifest(folder).submodel("gen_dec").files
    update_hash(folder, record)
    with pytest.raises(NumbersError, match=r"gen_dec/head differs from its test vector: max relative error"):
        selftest(read_manifest(folder), folder)


def test_a_vector_with_other_numbers(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    vector = load_file(folder / read_manifest(folder).graph(HEAD).vector.path)
    logits = vector["outputs.logits"].copy()
    logits[0, 0] += 2 * TOLERANCE["float32"] * np.abs(logits).max()
    change_vector(folder, outputs_logits=logits)
    with pytest.raises(
        NumbersError, match=r"allowed is max relative error 0.0001\n  at:  graphs/gen_dec/head.onnx"
    ):
        selftest(read_manifest(folder), folder)


def test_a_vector_that_is_not_a_number(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    vector = load_file(folder / read_manifest(folder).graph(HEAD).vector.path)
    logits = np.full_like(vector["outputs.logits"], np.nan)
    change_vector(folder, outputs_logits=logits)
    with pytest.raises(NumbersError):
        selftest(read_manifest(folder), folder)


def test_a_vector_of_another_shape(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    change_vector(folder, outputs_logits=np.zeros((1, 3), np.float32))
    with pytest.raises(NumbersError, match=r"returns logits as \[1, \d+\], its test vector has \[1, 3\]"):
        selftest(read_manifest(folder), folder)


def test_a_vector_of_another_graph(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    change_vector(folder, inputs_hidden=None)
    with pytest.raises(BundleError, match=r"the test vector is not that of gen_dec/head: 'inputs.hidden'"):
        selftest(read_manifest(folder), folder)


def test_inputs_that_the_runtime_refuses(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    change_vector(folder, inputs_hidden=np.zeros((1, 2), np.float32))
    with pytest.raises(UsageError, match="ONNX Runtime does not run it"):
        selftest(read_manifest(folder), folder)


def test_a_precision_of_a_later_time(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    text = (folder / "manifest.json").read_text("utf-8")
    (folder / "manifest.json").write_text(
        text.replace('"precision": "float32"', '"precision": "int2"'), "utf-8"
    )
    with pytest.raises(
        BundleError,
        match=r"has precision 'int2'\n  fix: this m4c knows float16, float32, int16x8, int4, int8, int8-weights",
    ):
        selftest(read_manifest(folder), folder)


def test_an_artifact_that_is_none(float_bundle: Path, copied: Copy) -> None:
    folder = copied(float_bundle)
    record = read_manifest(folder).graph(HEAD).file
    content = bytearray((folder / record.path).read_bytes())
    content[:20] = b"\xff" * 20
    (folder / record.path).write_bytes(content)
    update_hash(folder, record)
    with pytest.raises(BundleError, match="ONNX Runtime does not load it"):
        selftest(read_manifest(folder), folder)
