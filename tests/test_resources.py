"""What is told before an export holds for the export; limits of memory and disk end it with a message and no bundle."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from m4c.bundle import MANIFEST
from m4c.disk import require_disk, room
from m4c.errors import UsageError
from m4c.memory_limit import limited, resident, size
from m4c.request import Request
from m4c.resources import Need, _together, estimate
from m4c.targets.profile import load_target
from tests.bundles import SMALL

TRAINED = Path(__file__).parent / "assets" / "tiny_llama"
CPU = Request(target=load_target("cpu"), submodels=SMALL)


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


def m4c(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from m4c.cli import main; main()", "export", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "count"), [("800MB", 800_000_000), ("1GiB", 1 << 30), ("1.5 GiB", 3 << 29), ("4096", 4096)]
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "many", "1 G", "-1GB", "0MB", "1e9", "GiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a size\n  fix: write it as 800MB or 1GiB"):
        size(text)


def test_children_count_as_resident() -> None:
    program = "held = bytearray(b'x' * (200 << 20)); print('held', flush=True); input()"
    before = resident(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert resident(os.getpid()) - before > 180 << 20
        assert resident(child.pid) > 200 << 20
        child.kill()
    assert resident(child.pid) == 0


def test_output_is_that_of_the_export(float_bundle: Path) -> None:
    real = sum(path.stat().st_size for path in float_bundle.rglob("*") if path.is_file())
    assert estimate(CPU, 1).output_bytes == pytest.approx(real, rel=0.02)


def test_the_quantized_backbone_too_and_its_limit_is_kept(tmp_path: Path) -> None:
    request = Request(target=load_target("cpu"), submodels=("backbone",), weights=TRAINED, precision="int4")
    found = estimate(request, 1)
    limit = f"{found.peak_bytes * 1.1:.0f}"  # libraries take other memory on other machines
    options = ("backbone", "--weights", str(TRAINED), "--quantize", "int4", "--jobs", "1")
    done = m4c(*options, "-o", str(tmp_path / "out"), "--max-rss", limit)
    assert done.returncode == 0, done.stderr
    assert "needs about" in done.stderr
    real = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found.output_bytes == pytest.approx(real, rel=0.02)


def test_signatures_share_their_weights() -> None:
    asked = Request(target=load_target("cpu"), submodels=("backbone/embed",), format="tflite")
    one, two = (
        estimate(replace(asked, sizes=sizes), 1).output_bytes
        for sizes in ((("sequence", 1),), (("sequence", 1), ("sequence", 2)))
    )
    assert one < two < 1.1 * one


def test_fewer_jobs_where_more_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [Need(500 << 20, 1000, 1, 5.0), Need(400 << 20, 1000, 1, 5.0), Need(300 << 20, 1000, 1, 5.0)]
    monkeypatch.setattr("m4c.resources._needs", lambda _request, _jobs: needs)
    peaks = [_together(needs, jobs).peak_bytes for jobs in (1, 2, 3)]
    assert peaks == sorted(peaks)
    assert [estimate(CPU, 3, peak).jobs for peak in peaks] == [1, 2, 3]
    assert estimate(CPU, 3).jobs == 3
    with pytest.raises(
        UsageError, match=r"needs about 512 MiB of memory.*\n  fix: give at least --max-rss 512MiB"
    ):
        estimate(CPU, 3, peaks[0] - 1)
    assert estimate(CPU, 3, 512 << 20).jobs == 1, "what the message says is enough"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = m4c("projection", "--dry-run", "--json", "--jobs", "1", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert '"output_bytes": ' in done.stdout
    assert "needs about" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_impossible_limit_is_told_at_once(tmp_path: Path) -> None:
    done = m4c("projection", "--max-rss", "300MB", "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "the limit is 286 MiB" in done.stderr
    assert "fix: give at least --max-rss 5" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_export_that_goes_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    """What it needs is thought to be nothing, so it begins; the limit is a little more than what is held before."""
    program = (
        "import os, sys\nimport onnxruntime, torch, transformers\n"
        "from m4c import resources\nfrom m4c.cli import main\nfrom m4c.memory_limit import resident\n"
        "resources.BASE = 0\nlimit = (resident(os.getpid()) >> 20) + 8\nprint(limit)\n"
        "sys.argv = ['m4c', *sys.argv[1:], '--max-rss', f'{limit}MiB']\nmain()\n"
    )
    options = ("backbone", "--weights", str(TRAINED), "--quantize", "int4", "--jobs", "1")
    command = [sys.executable, "-c", program, "export", *options, "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    limit = int(done.stdout)
    assert f"of memory, more than the limit of {limit} MiB\n  fix: give a larger --max-rss" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_limit_ends_what_goes_beyond_it(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom m4c.errors import UsageError\nfrom m4c.memory_limit import limited\n"
        "try:\n    with limited(300 << 20):\n        try:\n"
        "            held = [bytearray(b'x' * (8 << 20)) for _ in range(50)]\n"
        "            time.sleep(30)\n        except BaseException as error:\n            raise KeyError from error\n"
        "except UsageError as error:\n    print(error)\n    sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 2, done.stderr
    assert "of memory, more than the limit of 300 MiB\n  fix: " in done.stdout


def test_a_limit_ends_what_does_not_listen() -> None:
    """The program swallows the interruption; it is ended after five seconds."""
    program = (
        "import time\nfrom m4c.memory_limit import limited\n"
        "held = [bytearray(b'x' * (8 << 20)) for _ in range(50)]\n"
        "with limited(300 << 20):\n    while True:\n"
        "        try:\n            time.sleep(30)\n        except BaseException:\n            pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=25
    )
    assert done.returncode == 2
    assert "more than the limit of 300 MiB" in done.stderr


def test_within_its_limit_nothing_happens() -> None:
    with limited(1 << 40), limited(None):
        assert resident(os.getpid()) < 1 << 40
    with pytest.raises(KeyError), limited(1 << 40):
        raise KeyError


def test_a_full_disk_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**6))
    require_disk(tmp_path / "deep" / "out", 10**6)
    with pytest.raises(UsageError, match=r"needs 2 MB of disk, 1 MB are free\n.*\n  fix: "):
        require_disk(tmp_path / "deep" / "out", 2 * 10**6)
    assert not room(CPU, tmp_path / "out")
    half = tmp_path / "out.partial-0123456789abcdef" / "graphs"
    half.mkdir(parents=True)
    (half / MANIFEST).write_bytes(bytes(10**6))
    require_disk(tmp_path / "out", 2 * 10**6)  # that space will be free, or is used again
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, 10**13))
    assert room(CPU, tmp_path / "out")
