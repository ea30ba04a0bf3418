"""Several targets and precisions in one command."""

import json
from pathlib import Path

import pytest

from m4c.bundle import read_manifest
from m4c.errors import UsageError
from m4c.matrix import variants
from m4c.request import Request
from m4c.scheme import Scheme
from m4c.targets.profile import load_target
from tests.shell import Shell

CPU, XNNPACK, EDGETPU = map(load_target, ("cpu", "xnnpack", "edgetpu"))


def test_what_is_several_names_the_folders() -> None:
    request = Request(CPU, ("gen_dec",))
    assert variants(request, [CPU], {None: None}) == {"": request}
    assert set(variants(request, [CPU, EDGETPU], {None: None})) == {"cpu", "edgetpu"}
    made = variants(request, [CPU], {"int4": Scheme(4), "float32": None})
    assert [(name, one.precision, one.scheme) for name, one in made.items()] == [
        ("int4", "int4", Scheme(4)),
        ("float32", "float32", None),
    ]
    made = variants(request, [CPU, EDGETPU], {None: None, "int8": None})
    assert list(made) == ["cpu", "cpu-int8", "edgetpu", "edgetpu-int8"]
    assert (made["edgetpu-int8"].target, made["edgetpu-int8"].precision) == (EDGETPU, "int8")
    assert {one.submodels for one in made.values()} == {("gen_dec",)}


def test_a_target_is_given_once() -> None:
    with pytest.raises(UsageError, match="--target cpu is given twice"):
        variants(Request(CPU), [CPU, XNNPACK, CPU], {None: None})


def test_each_has_a_bundle_and_one_that_fails_stops_no_other(m4c: Shell, tmp_path: Path) -> None:
    out = tmp_path / "all"
    arguments = ("export", "projection", "--target", "cpu", "--target", "edgetpu", "--fallback", "error")
    done = m4c(*arguments, "--quantize", "none", "--quantize", "int4", "-o", out, "--jobs", "1", "--json")
    assert done.code == 3, done.err
    told = json.loads(done.out)["bundles"]
    assert list(told) == ["cpu-float32", "cpu-int4", "edgetpu-float32", "edgetpu-int4"]
    for name in ("cpu-float32", "cpu-int4"):
        manifest = read_manifest(out / name)
        assert (manifest.target, manifest.graphs[0].precision) == ("cpu", name.removeprefix("cpu-"))
        assert told[name]["bundle"] == str(out / name)
    failed = [name for name, one in told.items() if "error" in one]
    assert failed
    assert {told[name]["exit_code"] for name in failed} == {3}
    assert not any((out / name).exists() for name in failed)
    assert f"error: {told[failed[0]]['error']}" in done.err


def test_a_bundle_does_not_become_a_folder_of_bundles(m4c: Shell, tmp_path: Path, float_bundle: Path) -> None:
    done = m4c("export", "projection", "--target", "cpu", "--target", "xnnpack", "-o", float_bundle)
    assert (done.code, done.out) == (2, "")
    assert f"{float_bundle} is a bundle, and several bundles are to go into it" in done.err


def test_the_table_has_a_row_a_bundle(m4c: Shell, tmp_path: Path) -> None:
    done = m4c("export", "projection", "--target", "cpu", "--target", "xnnpack", "-o", tmp_path / "two")
    assert done.code == 0, done.err
    assert done.out.count("done") == 2
    for name in ("cpu", "xnnpack"):
        assert f"{name} (" in done.err
        assert name in done.out
