"""Every command that README.md and the pages in docs show in a shell block is run, in the order of its page; of README.md also
those in its table. What is not run is listed here with the reason: a command that is neither fails.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import m4c.parallel
from m4c.bundle import read_manifest
from m4c.compile import compile_bundle
from m4c.models import shipped
from m4c.models.training.motions import LABELS, motion
from m4c.progress import Silent
from m4c.request import Request
from m4c.targets.profile import load_target
from tests import tiny_backbone
from tests.adapters.peft_folders import trained
from tests.end_to_end.here import share_captures
from tests.shell import Done, Shell
from tests.shown import PAGES, ROOT, Shown, blocks, in_shell, in_text, in_workflow

SHOWING = [page for page in PAGES if page.name == "README.md" or page.parent.name == "docs"]

NOT_OURS = {
    "python3 -m venv .venv": "an environment; .ci/run makes one",
    ".venv/bin/pip install -q -c constraints.txt -e .": "the network",
    ".venv/bin/pip install -c constraints.txt -e .": "the network",
    '.venv/bin/pip install -q -c constraints.txt -e ".[dev]"': "the network; .ci/run runs it",
    ". .venv/bin/activate": "the tests have their environment",
    ".venv/bin/ruff check": ".ci/run runs it",
    ".venv/bin/mypy": ".ci/run runs it",
    ".venv/bin/pytest -q -n 2": ".ci/run runs it",
    "pip install ai-edge-litert numpy": "on the device",
    "pip install onnxruntime numpy": "on the device",
    "pip install ethos-u-vela==5.2.0": "the network",
    "edgetpu_compiler -s bundle/graphs/imu_enc/encoder.tflite": "Coral's compiler",
    "vela bundle/graphs/imu_enc/encoder.tflite --accelerator-config ethos-u85-256 --output-dir out": "Arm's compiler",
    "pip install --no-deps m4c": "on the device; tests/end_to_end/test_runtime_alone.py has what it leaves",
    "pip install numpy pillow rich safetensors tokenizers typer onnxruntime": "likewise",
    "python -m tests.benchmarks.adapter_memory SEPARATE MERGED MERGED MERGED": "a measurement",
    "python -m tests.benchmarks.accuracy docs/accuracy.md WORK": "a measurement",
    "apt-get download chromium-common": "the network",
    "dpkg -x chromium-common_*.deb driver": "what was not downloaded",
}
"""Commands of other programs."""

NOT_RUN = {
    "m4c export": "tests.bundles.nano_bundle runs it, with adapters",
    "m4c export -o everything": "tests.bundles.nano_bundle runs it, with adapters",
    "m4c export --adapter shapes=tests/assets/nano/adapters/shapes --adapter jumping=tests/assets/nano/adapters/jumping "
    "--adapter herald=tests/assets/nano/adapters/herald --adapters separate -o three": "tests.bundles.nano_bundle runs it",
    "m4c run m4-nano-bundle --task T22 --image tests/assets/nano/seven.png --labels one,seven,eight": "5 s for img_enc; "
    "from a part of it in tests/end_to_end/test_runtime_alone.py",
    "m4c export --task T48 -o artist": "8 s: tests.bundles.nano_bundle has its graphs",
    "m4c run m4-nano-bundle --task T36 --audio tests/assets/nano/siren.wav --labels siren,rain,clicks": "4 s for "
    "aud_b_enc; in float32 in tests/end_to_end/test_nano.py",
    "m4c export backbone --weights DIR --quantize int4 --dialect genai": "5 s: tests/models/test_llama_genai.py",
    "m4c adapters compare A --weights DIR": "4 s: tests/adapters/test_compare.py",
    "m4c export aud_i_enc --preset m4 --weights DIR": "a full-size model: tests/end_to_end/test_speech.py",
    "m4c export aud_i_enc --preset m4 --weights whisper-tiny.en -o speech": "likewise",
    "m4c run speech --task T32 --audio hello.wav": "likewise",
    "m4c export aud_i_enc --preset m4 --weights whisper-tiny.en --format tflite --quantize int8 "
    "--calibration recordings -o speech-int8": "likewise",
    "m4c export backbone --preset m4 --weights DIR --quantize int4 --jobs 1 --adapter a0=A0 … --adapter a7=A7 "
    "--adapters separate": "1.1 billion parameters: a measurement",
    "m4c export --preset m4 --weights /models/m4 --quantize int4 --store s3://team/m4c "
    "--executor dask://scheduler:8786 -o m4": "a cluster: tests/end_to_end/test_cluster.py has a small one",
    "m4c gate m4-nano --target edgetpu --baseline operator_reports/baseline": "10 s: the page's next line is a part of it",
    "m4c report m4": "20 s: full-size models; tests/operator_reports/test_zoo.py has the counts",
    "m4c report m4 --op-budget 20": "a minute: tests/operator_reports/test_budget.py",
    "m4c report m4 --op-budget 19": "a minute: tests/operator_reports/test_budget.py",
    "m4c report m4-nano --target all --format html -o nano.html": "a minute: tests/operator_reports/test_page.py",
    "m4c report routes --target edgetpu": "half a minute: tests/operator_reports/test_latency.py",
    "m4c report routes --preset m4 --target all --format md": "3 minutes",
    "m4c report scaling --measure --jobs 1": "4 minutes",
    "m4c report zoo --measure --jobs 1": "10 minutes",
    "m4c report scaling --figure docs/scaling.svg": "matplotlib",
    "m4c report zoo --figure docs/zoo.svg": "matplotlib",
    "M4C_GPU_DRIVER=$PWD/driver/usr/lib/chromium m4c report bundle --target gpu --evidence compiled": "a Vulkan "
    "driver: tests/operator_reports/test_litert_gpu.py",
}
"""Commands of m4c that take too much: full-size models, minutes, a cluster, a driver, another package."""

INSTEAD = {
    ".venv/bin/m4c export --target edgetpu --calibration random -o m4-nano-bundle": (
        "m4c export imu_enc txt_enc --target edgetpu --calibration random -o m4-nano-bundle",
        "a minute: what one of the tasks beside it needs",
    ),
    "m4c explain BUNDLE NODE": (
        "m4c explain bundle modality_trunks.imu.blocks.1.attn",
        "a node that is there",
    ),
    "m4c export backbone --weights DIR --adapter NAME=PATH --adapters separate": (
        "m4c export backbone --weights DIR --adapter emoji=A --adapters separate",
        "a path that is there",
    ),
    "m4c gate m4-nano --target edgetpu --baseline operator_reports/baseline --update-baseline": (
        "m4c gate imu_enc --target edgetpu --baseline written --update-baseline",
        "10 s: a part of it",
    ),
    "m4c gate m4-nano --target ${{ matrix.target }} --baseline operator_reports/baseline --waivers waivers.toml "
    "--junit gate.xml --sarif gate.sarif --markdown gate.md": (
        "m4c gate imu_enc --target ethos-u55 --baseline operator_reports/baseline --waivers waivers.toml "
        "--junit gate.xml --sarif gate.sarif --markdown gate.md",
        "10 s: a part of it, one of its targets",
    ),
    "m4c run bundle --task T22 --image seven.png --labels one,seven,eight": (
        "m4c run BUNDLE --task T22 --image seven.png --labels one,seven,eight",
        "a bundle that has the task",
    ),
    "m4c diff A B": ("m4c diff bundle bundle", "bundles that are there"),
}
"""What is run instead, and why."""

BY_SHAPE = """<ir_version: 8, opset_import: ["":18]> model (float[1, 16] x) => (float[1, 8] y) {
    up = MatMul(x, a)
    bent = Relu(up)
    y = MatMul(bent, b)
}"""
"""A user's own model; its weights are added."""


@pytest.fixture(scope="module", autouse=True)
def _cheap() -> Iterator[None]:
    """Capture a graph once for all commands, in this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        share_captures(patch)
        patch.setattr(m4c.parallel, "processes", lambda jobs, items: 1)
        yield


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, _cheap: None, nano_bundle: Path, int8_bundle: Path
) -> Path:
    """Return a folder with all that commands are shown on, by the names of the pages."""
    folder = tmp_path_factory.mktemp("prepared")
    sizes = replace(tiny_backbone.SIZES, width=64, ffn=192, head_dim=16, max_positions=2048)
    tiny_backbone.save(folder / "DIR", sizes)
    for seed, name in enumerate(("A", "B")):
        trained(folder / name, folder / "DIR", seed=seed, target_modules=["q_proj", "v_proj"])
    _record_motions(folder / "DIR")
    _write_model(folder / "model.onnx", folder / "samples")
    request = Request(
        load_target("edgetpu"), ("imu_enc",), calibration=str(folder / "DIR"), weights=shipped.WEIGHTS
    )
    compile_bundle(request, folder / "bundle", Silent())
    (graph,) = read_manifest(int8_bundle).graphs
    shutil.copyfile(int8_bundle / graph.file.path, folder / "model.tflite")
    assets = folder / "tests/assets/nano"
    shutil.copytree(ROOT / "tests/assets/nano", assets)
    shutil.copytree(ROOT / "operator_reports/baseline", folder / "operator_reports/baseline")
    shutil.copyfile(assets / "blue_star.png", folder / "a.png")
    shutil.copyfile(assets / "seven.png", folder / "seven.png")
    shutil.copyfile(assets / "seven.wav", folder / "speech.wav")
    (waivers,) = blocks(ROOT / "docs/gate.md", "toml")
    (folder / "waivers.toml").write_text(waivers, "utf-8")
    for name in ("BUNDLE", "everything", "three", "artist"):
        (folder / name).symlink_to(nano_bundle)
    return folder


def _record_motions(folder: Path) -> None:
    """Write recordings of every activity by two bodies: with fewer, ranges are not typical."""
    rng = np.random.default_rng(0)
    for body in range(2):
        for label in LABELS:
            path = folder / f"{label}_{body}.csv"
            np.savetxt(path, motion(label, 128, rng).T, "%.4f", ",", header="ax,ay,az,gx,gy,gz", comments="")


def _write_model(path: Path, samples: Path) -> None:
    """Write a small ONNX file, and inputs of it."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(BY_SHAPE)
    for name, shape in (("a", (16, 32)), ("b", (32, 8))):
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    samples.mkdir()
    for i in range(3):
        np.savez(samples / f"{i}.npz", x=rng.standard_normal((1, 16)).astype(np.float32))


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of the folder, in which a page begins."""
    folder = shutil.copytree(prepared, tmp_path / "page", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def shown_on(page: Path) -> Iterator[Shown]:
    """Yield every command of a page that is run, or listed as not."""
    yield from in_shell(page)
    yield from in_workflow(page)
    if page.name == "README.md":
        yield from in_text(page)


DONE: set[str] = set()
"""What was run before: a command is run once, whatever shows it."""


@pytest.mark.parametrize("page", SHOWING, ids=[page.name for page in SHOWING])
def test_what_a_page_shows_is_run(page: Path, request: pytest.FixtureRequest, m4c: Shell) -> None:
    wanted = [shown for shown in shown_on(page) if shown.command not in {*NOT_OURS, *NOT_RUN, *DONE}]
    if not wanted:
        return
    place = request.getfixturevalue("place")
    for shown in wanted:
        command, _ = INSTEAD.get(shown.command, (shown.command, ""))
        first, *words = shlex.split(command)
        assert first == "m4c", (
            f"{page.name}: {shown.command} is neither m4c's nor listed as another program's"
        )
        done = m4c(*words)
        assert done.code == 0, f"{page.name}: {command} ends with {done.code}: {done.err}"
        check(shown, done, place)
        DONE.add(shown.command)


def check(shown: Shown, done: Done, place: Path) -> None:
    """Hold what a command left against what is said beside it."""
    if re.match("m4c run (m4-nano-bundle|three) ", shown.command):
        assert done.out.strip() == shown.comment
    for name in re.findall(r" (?:-o|--figure|--junit|--sarif|--markdown) (\S+)", shown.command):
        assert (place / name).exists(), shown.command


def test_all_that_is_listed_is_shown() -> None:
    """A row that no page needs any more is a row too many."""
    shown = {shown.command for page in SHOWING for shown in shown_on(page)}
    assert {*NOT_OURS, *NOT_RUN, *INSTEAD} - shown == set()
    assert not {*NOT_OURS} & {*NOT_RUN} & {*INSTEAD}


def test_most_of_what_is_shown_is_run() -> None:
    ours = {shown.command for page in SHOWING for shown in shown_on(page)} - set(NOT_OURS)
    assert len(ours & set(NOT_RUN)) < len(ours) / 3


@pytest.mark.parametrize("reason", sorted({reason for reason in NOT_RUN.values() if "tests" in reason}))
def test_a_test_that_runs_it_instead_is_there(reason: str) -> None:
    (name,) = re.findall(r"tests[/.]\S+", reason)
    file = ROOT / name if name.endswith(".py") else ROOT / f"{name.rpartition('.')[0].replace('.', '/')}.py"
    assert file.exists()
