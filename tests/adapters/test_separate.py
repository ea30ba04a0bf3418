"""Adapters beside a base: one base for all, each swapped at run time, and what does not fit."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from m4c import cli
from m4c.adapters.contract import INTERFACE, contract_name, file_name
from m4c.adapters.given import Adapters, Given
from m4c.adapters.off import require_base
from m4c.assemble import open_sources
from m4c.bundle import GraphRecord, read_manifest, record_file
from m4c.compile import compile_bundle
from m4c.errors import NumbersError
from m4c.numerics import difference
from m4c.progress import Silent
from m4c.request import Request
from m4c.runners import OnnxRunner, TfliteRunner, open_runners
from m4c.slots import Slot
from m4c.targets.profile import load_target
from m4c.weights import Array
from tests.adapters.peft_folders import trained
from tests.bundles import edit_manifest
from tests.end_to_end.here import Export, capture_once, export, share_captures

__all__ = ["capture_once", "export"]

DECODER = "backbone/decoder"
Merged = dict[str, dict[str, Array]]
"""What PEFT merges each adapter to."""
Bundle = Callable[..., Path]

FORMATS = ("onnx", "tflite")
BUILDS = [(one, precision) for one in FORMATS for precision in ("float32", "int4", "int8-weights")]

RANKS = {"a": 4, "b": 3}

ROOM = 5
"""The limit of ranks of a TFLite base that was exported with b alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def merged(checkpoint: Path, folder: Path) -> Merged:
    """Train two adapters of different ranks and targets in ``folder``."""
    targets = {"a": ["q_proj", "v_proj"], "b": ["q_proj", "down_proj", "lm_head"]}
    return {
        name: trained(folder / name, checkpoint, seed=rank, target_modules=targets[name], r=rank)
        for name, rank in RANKS.items()
    }


def asked(checkpoint: Path, folder: Path, names: str, file_format: str, precision: str) -> Request:
    """Return what an export with the adapters ``names`` beside is asked for."""
    given = tuple(Given(name, str(folder / name)) for name in names)
    limit = ROOM if (file_format, names) == ("tflite", "b") else None
    beside = Adapters(given, "separate", rank_limit=limit) if names else None
    return Request(
        load_target("cpu"),
        ("backbone",),
        weights=checkpoint,
        format=file_format,
        precision=precision,
        dialect="standard" if (file_format, precision) == ("onnx", "int8-weights") else None,
        adapters=beside,
    )


@pytest.fixture(scope="module")
def bundle(
    checkpoint: Path, folder: Path, merged: Merged, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bundle]:
    """Return a function that exports with adapters beside; equal exports are made once."""
    root, made = tmp_path_factory.mktemp("bundles"), dict[tuple[str, ...], Path]()

    def of(file_format: str, precision: str, names: str = "ab") -> Path:
        key = (file_format, precision, names)
        if key not in made:
            made[key] = root / ".".join(key)
            compile_bundle(asked(checkpoint, folder, names, file_format, precision), made[key], Silent())
        return made[key]

    with pytest.MonkeyPatch.context() as patched:
        share_captures(patched)
        yield of


def decoder(bundle: Path) -> GraphRecord:
    return read_manifest(bundle).graph(DECODER)


def inputs(bundle: Path) -> dict[str, Array]:
    graph = decoder(bundle)
    vector = load_file(bundle / graph.vector.path)
    return {port.name: vector[f"inputs.{port.name}"] for port in graph.inputs}


def opened(bundle: Path) -> OnnxRunner | TfliteRunner:
    graph = decoder(bundle)
    (runner,) = open_runners(bundle / graph.file.path, [graph.signature])
    assert isinstance(runner, OnnxRunner | TfliteRunner)
    return runner


def adapter(bundle: Path, name: str) -> Path:
    return bundle / "adapters" / name / file_name(DECODER, decoder(bundle).format)


def bits(outputs: dict[str, Array]) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in outputs.items()}


@pytest.mark.parametrize(("file_format", "precision"), BUILDS)
def test_one_base_runs_with_each_and_without(bundle: Bundle, file_format: str, precision: str) -> None:
    both = bundle(file_format, precision)
    feeds, runner = inputs(both), opened(both)
    off = runner.run(feeds)
    if precision == "int4":  # each export compares itself with its base too
        assert bits(off) == bits(opened(bundle(file_format, precision, "")).run(feeds))
    made = {}
    for name in "ab":
        runner.use(adapter(both, name))
        made[name] = runner.run(feeds)["logits"]
        assert difference(made[name], off["logits"]).max_relative > 1e-3
    assert difference(made["a"], made["b"]).max_relative > 1e-3
    runner.use(None)
    assert bits(runner.run(feeds)) == bits(off)


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_an_adapter_leaves_behind_is_found(bundle: Bundle, file_format: str) -> None:
    both = bundle(file_format, "int4")
    graph, feeds = decoder(both), inputs(both)
    slots = [Slot(s.module, "", s.inputs, s.outputs, limit=s.rank_limit) for s in graph.slots]
    require_base(both / graph.file.path, slots, feeds, graph.signature)
    left = {slots[0].down: np.ones((64, 3), np.float32), slots[0].up: np.full((3, 320), 1e-6, np.float32)}
    assert slots[0].module == "lm_head"
    with pytest.raises(NumbersError, match="without an adapter logits is not what it is without slots"):
        require_base(both / graph.file.path, slots, {**feeds, **left}, graph.signature)


@pytest.mark.parametrize("file_format", FORMATS)
def test_it_computes_what_peft_merges(
    bundle: Bundle, checkpoint: Path, folder: Path, merged: Merged, file_format: str
) -> None:
    both = bundle(file_format, "float32")
    feeds, runner = inputs(both), opened(both)
    request = asked(checkpoint, folder, "", file_format, "float32")
    source = next(s for s in open_sources(request, "backbone")[2] if s.name == DECODER)
    sized = source.sized(decoder(both).sizes)
    for name in "ab":
        runner.use(adapter(both, name))
        made = runner.run(feeds)
        weights = {key: ir.tensor(np.ascontiguousarray(w), name=key) for key, w in merged[name].items()}
        for output, values in sized.with_weights(weights).run(feeds).items():
            assert difference(values, made[output]).max_relative < 1e-5, output


def test_an_adapter_is_merged_by_the_command_line(
    export: Export, checkpoint: Path, folder: Path, bundle: Bundle
) -> None:
    both = bundle("onnx", "float32")
    done = export("--weights", checkpoint, "--adapter", f"a={folder / 'a'}", "--adapters", "merge")
    assert done.code == 0, done.err
    feeds, runner = inputs(both), opened(both)
    runner.use(adapter(both, "a"))
    made = runner.run(feeds)
    for output, values in OnnxRunner(done.out / done.graph.file.path).run(feeds).items():
        assert difference(values, made[output]).max_relative < 1e-5, output
    (record,) = read_manifest(done.out).submodels[0].merged
    assert (record.name, record.weight) == ("a", 1.0)


def held(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in an adapter's file."""
    if path.suffix == ".safetensors":
        return {name: values.shape for name, values in load_file(path).items()}
    found = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
    return {name: tuple(value.shape()) for name, value in found.items()}


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_manifest_tells_the_contract(bundle: Bundle, file_format: str) -> None:
    both = bundle(file_format, "int4")
    (submodel,) = read_manifest(both).submodels
    if file_format == "onnx":
        assert submodel.base == submodel.files[0].sha256
    slots = {slot.module: slot for slot in decoder(both).slots}
    assert len(slots) == 4 * 3 + 1
    head, query = slots["lm_head"], slots["model.layers.3.self_attn.q_proj"]
    assert (head.a, head.b, head.inputs, head.outputs) == ("lm_head.lora_A", "lm_head.lora_B", 64, 320)
    assert [head.rank_limit, query.rank_limit] == ([None, None] if file_format == "onnx" else [3, 4])
    for one in submodel.adapters:
        (file,) = one.files.values()
        shapes = held(both / file.path)
        assert {shapes[name][-1] for name in shapes if name.endswith("A")} == {RANKS[one.name]}
        contract = json.loads((both / one.contract.path).read_text("utf-8"))
        assert (contract["interface"], contract["fits"]) == (INTERFACE, [submodel.base])
        (part,) = contract["graphs"].values()
        assert part["file"]["sha256"] == file.sha256
        ranks = {(slot["a"], slot["rank"], slot["scale"]) for slot in part["slots"]}
        assert ranks == {(n, RANKS[one.name], 8 / RANKS[one.name]) for n in shapes if n.endswith("A")}
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == one.parameters
        proof = one.verification[DECODER]
        assert proof.max_relative_error < 1e-5
        assert proof.effect_db is not None
        assert proof.effect_db < 40


Ran = tuple[object, str, str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path, object], Ran]:
    """Return a function that runs a bundle with an adapter; it returns the exit code, stdout and stderr."""

    def run(bundle: Path, adapter: object) -> Ran:
        options = ["--task", "T1", "--text", "Once", "--max-tokens", "8", "--adapter", str(adapter)]
        monkeypatch.setattr(sys, "argv", ["m4c", "run", str(bundle), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def changed(source: Path, to: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Copy an adapter's folder to ``to``, with its contract changed by ``edit``."""
    shutil.copytree(source, to)
    path = to / contract_name("backbone")
    table = json.loads(path.read_text("utf-8"))
    edit(table)
    path.write_text(json.dumps(table), "utf-8")
    return to


@pytest.mark.parametrize("file_format", FORMATS)
def test_run_takes_an_adapter_and_refuses_what_does_not_fit(
    bundle: Bundle, tmp_path: Path, folder: Path, ran: Callable[[Path, object], Ran], file_format: str
) -> None:
    both, other, fewer = (bundle(file_format, *asked) for asked in (("int4",), ("float32",), ("int4", "b")))
    said = {name: ran(both, name) for name in "ab"}
    assert [code for code, _, _ in said.values()] == [0, 0]
    assert said["a"][1] != said["b"][1]
    a, b = (both / "adapters" / name for name in "ab")
    assert ran(both, a) == said["a"]
    assert ran(fewer, shutil.copytree(b, tmp_path / "elsewhere"))[:2] == said["b"][:2]
    damaged = shutil.copytree(both, tmp_path / "damaged")
    adapter(damaged, "a").write_bytes(b"none")
    (damaged / "adapters" / "b" / contract_name("backbone")).write_text("{}", "utf-8")
    slotless = shutil.copytree(other, tmp_path / "slotless")
    edit_manifest(slotless, f'"base": "{read_manifest(other).submodels[0].base}"', '"base": ""')
    newer = changed(a, tmp_path / "newer", lambda table: table.update(interface=INTERFACE + 1))
    older = shutil.copytree(both, tmp_path / "older")
    edit_manifest(older, f'"interface": {INTERFACE}', f'"interface": {INTERFACE - 1}')
    unknown = changed(a, tmp_path / "unknown", lambda table: table.update(fit="all"))
    for where, name, reason in (
        (both, "c", "the bundle has no adapter c"),
        (both, folder / "a", "there is no backbone.adapter.json in it"),
        (other, a, "was made for another base than backbone"),
        (slotless, a, "backbone of this bundle has no slots for adapters"),
        (fewer, a, "backbone/decoder has no slot for model.layers.0.self_attn.v_proj"),
        (both, newer, "the adapter has version 2 of the interface, this m4c reads 1"),
        (older, a, "the adapter has version 1 of the interface, backbone of this bundle has 0"),
        (both, unknown, "the adapter's contract is damaged: fit is unknown"),
        (damaged, "a", f"{file_name(DECODER, file_format)} is missing or was altered"),
        (both, damaged / "adapters" / "a", f"{file_name(DECODER, file_format)} is missing or was altered"),
        (damaged, "b", "backbone.adapter.json is missing or was altered"),
    ):
        code, _, err = ran(where, name)
        assert (code, reason in err, "  fix: " in err, "Traceback" in err) == (2, True, True, False), err


def test_a_later_adapter_of_larger_rank_needs_room(
    bundle: Bundle, tmp_path: Path, ran: Callable[[Path, object], Ran]
) -> None:
    """The adapter b with a rank of zeros more: it says the same, where a base takes it."""
    both, roomy = bundle("tflite", "int4"), bundle("tflite", "int4", "b")
    assert {slot.rank_limit for slot in decoder(roomy).slots} == {ROOM}
    larger = {
        name: np.pad(v, [(0, n % 3 == 0) for n in v.shape])
        for name, v in load_file(adapter(both, "b")).items()
    }

    def grow(table: dict[str, Any]) -> None:
        part = table["graphs"][DECODER]
        part["slots"] = [{**slot, "rank": slot["rank"] + 1} for slot in part["slots"]]
        part["file"] = dataclasses.asdict(record_file(tmp_path, tmp_path / adapter(both, "b").name))

    save_file(larger, tmp_path / adapter(both, "b").name)
    path = changed(both / "adapters" / "b", tmp_path / "larger", grow)
    shutil.copy(tmp_path / adapter(both, "b").name, path)
    assert ran(roomy, path)[:2] == ran(both, "b")[:2]
    code, _, err = ran(both, path)
    assert code == 2
    assert "lm_head takes a rank of up to 3 in backbone/decoder, the adapter has 4" in err
    assert "--rank-limit 4" in err
