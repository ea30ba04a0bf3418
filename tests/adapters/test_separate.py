"""Adapters beside a base through the command line: one base for all, each swapped at run time, and what does not fit."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from m4c import cli
from m4c.adapters.contract import file_name
from m4c.bundle import MANIFEST, read_manifest
from m4c.numerics import difference
from m4c.runners import OnnxRunner
from m4c.weights import Array
from tests.adapters.peft_folders import trained
from tests.end_to_end.here import Done, Export, capture_once, export

__all__ = ["capture_once", "export"]

DECODER = "backbone/decoder"
Merged = dict[str, dict[str, Array]]


@pytest.fixture(scope="session")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two adapters of different ranks and targets."""
    made = tmp_path_factory.mktemp("two")
    trained(made / "a", checkpoint, seed=1, target_modules=["q_proj", "v_proj"])
    trained(made / "b", checkpoint, seed=2, target_modules=["q_proj", "down_proj", "lm_head"], r=3)
    return made


@pytest.fixture
def separate(export: Export, checkpoint: Path, folder: Path) -> Any:
    """Return a function that exports with both adapters beside."""

    def run(*options: object, name: str = "bundle") -> Done:
        both = [option for one in "ab" for option in ("--adapter", f"{one}={folder / one}")]
        done = export("--weights", checkpoint, *both, "--adapters", "separate", *options, name=name)
        assert done.code == 0, done.err
        return done

    return run


def inputs(done: Done) -> dict[str, Array]:
    vector = load_file(done.out / done.graph.vector.path)
    return {port.name: vector[f"inputs.{port.name}"] for port in done.graph.inputs}


def bits(outputs: dict[str, Array]) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in outputs.items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--quantize", "int4"),
        ("--quantize", "int8-weights", "--dialect", "standard"),
    ],
    ids=lambda value: " ".join(value) or "float32",
)
def test_one_base_runs_with_each_and_without(
    separate: Any, export: Export, checkpoint: Path, options: tuple[str, ...]
) -> None:
    done = separate(*options)
    plain = export("--weights", checkpoint, *options, name="plain")
    feeds, runner = inputs(done), OnnxRunner(done.out / done.graph.file.path)
    base = OnnxRunner(plain.out / plain.graph.file.path).run(feeds)
    off = runner.run(feeds)
    assert bits(off) == bits(base)
    made = {}
    for name in "ab":
        runner.use(done.out / "adapters" / name / file_name(DECODER))
        made[name] = runner.run(feeds)["logits"]
        assert difference(made[name], off["logits"]).max_relative > 1e-3
    assert difference(made["a"], made["b"]).max_relative > 1e-3
    runner.use(None)
    assert bits(runner.run(feeds)) == bits(off)


def test_it_computes_what_merging_does(separate: Any, export: Export, checkpoint: Path, folder: Path) -> None:
    done = separate()
    feeds, runner = inputs(done), OnnxRunner(done.out / done.graph.file.path)
    for name in "ab":
        given = ("--adapter", f"{name}={folder / name}", "--adapters", "merge")
        merged = export("--weights", checkpoint, *given, name=f"merged-{name}")
        assert merged.code == 0, merged.err
        expected = OnnxRunner(merged.out / merged.graph.file.path).run(feeds)
        runner.use(done.out / "adapters" / name / file_name(DECODER))
        for output, values in runner.run(feeds).items():
            assert difference(expected[output], values).max_relative < 1e-5, output
        (record,) = read_manifest(merged.out).submodels[0].merged
        assert (record.name, record.weight) == (name, 1.0)


def test_the_manifest_tells_the_contract(separate: Any) -> None:
    done = separate("--quantize", "int4")
    (submodel,) = read_manifest(done.out).submodels
    assert submodel.base == submodel.files[0].sha256
    slots = {slot.module: slot for slot in done.graph.slots}
    assert len(slots) == 4 * 3 + 1
    head = slots["lm_head"]
    assert (head.a, head.b, head.inputs, head.outputs) == ("lm_head.lora_A", "lm_head.lora_B", 64, 320)
    for adapter in submodel.adapters:
        (file,) = adapter.files.values()
        held = onnxruntime.AdapterFormat.read_adapter(str(done.out / file.path)).get_parameters()
        assert sum(int(np.prod(value.shape())) for value in held.values()) == adapter.parameters
        proof = adapter.verification[DECODER]
        assert proof.max_relative_error < 1e-5
        assert proof.effect_db is not None
        assert proof.effect_db < 40


def run_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bundle: Path, adapter: object
) -> tuple[object, str, str]:
    options = ["--task", "T1", "--text", "Once", "--max-tokens", "8", "--adapter", str(adapter)]
    monkeypatch.setattr(sys, "argv", ["m4c", "run", str(bundle), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_run_takes_an_adapter_and_refuses_what_does_not_fit(
    export: Export,
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def bundle(name: str, *options: str) -> Path:
        common = ("--weights", checkpoint, "--adapters", "separate")
        done = export(*common, *options, name=name, graph="backbone")
        assert done.code == 0, done.err
        return done.out

    a, b = (f"{one}={folder / one}" for one in "ab")
    both = bundle("both", "--adapter", a, "--adapter", b)
    other = bundle("other", "--adapter", a, "--quantize", "int4")
    fewer = bundle("fewer", "--adapter", a)

    def ran(where: Path, adapter: object) -> tuple[object, str, str]:
        return run_with(monkeypatch, capsys, where, adapter)

    said = {name: ran(both, name) for name in "ab"}
    assert [code for code, _, _ in said.values()] == [0, 0]
    assert said["a"][1] != said["b"][1]
    assert ran(both, both / "adapters" / "a") == said["a"]
    assert ran(fewer, both / "adapters" / "a")[:2] == said["a"][:2]
    damaged = shutil.copytree(both, tmp_path / "damaged")
    (damaged / "adapters" / "a" / file_name(DECODER)).write_bytes(b"none")
    broken = shutil.copytree(both / "adapters" / "a", tmp_path / "broken")
    (broken / file_name(DECODER)).write_bytes(b"none")
    for where, adapter, reason in (
        (both, "c", "the bundle has no adapter c"),
        (other, both / "adapters" / "a", "was made for another base than backbone"),
        (fewer, both / "adapters" / "b", "backbone/decoder has no slot for lm_head.lora_A"),
        (damaged, "a", "is missing or was altered"),
        (both, broken, "not a readable adapter"),
    ):
        code, _, err = ran(where, adapter)
        assert (code, reason in err, "  fix: " in err) == (2, True, True), err
    manifest = json.loads((fewer / MANIFEST).read_text("utf-8"))
    manifest["submodels"][0]["adapters"][0]["base"] = "0" * 64
    (fewer / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    assert "another base" in ran(fewer, "a")[2]
