"""An export that is killed while it writes weights: nothing looks like a bundle, and the next one goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from m4c.errors import UsageError
from m4c.hashing import sha256
from m4c.staging import staged
from tests.another_process import holding

CONFIG = LlamaConfig(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
"""23 million parameters: 92 MB in float32."""

DRIVER = """
import sys
from pathlib import Path
from m4c import staging, weight_file
from m4c.compile import compile_bundle
from m4c.progress import Silent
from m4c.request import Request
from m4c.targets.profile import load_target
staging._own = list  # an edit of m4c between two starts would make them two requests
reads = 0
plain = weight_file.data
def read(tensor, rows):
    global reads
    reads += 1
    return plain(tensor, rows)
weight_file.data = read
folder = Path(sys.argv[1])
request = Request(load_target("cpu"), ("backbone",), weights=folder)
compile_bundle(request, Path(sys.argv[2]), Silent())
print(reads)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint of LLaMA."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    return folder


def start(checkpoint: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", DRIVER, str(checkpoint), str(out)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: "subprocess.Popen[str]") -> int:
    """Wait for an export, and return how many pieces of weights it read to write them."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return int(output)


def kill_at(process: "subprocess.Popen[str]", folder: Path, lines: int) -> None:
    """Kill an export as soon as its journal has so many lines."""
    while process.poll() is None:
        journals = list(folder.glob("*.partial-*/graphs/*/*.journal"))
        if journals and journals[0].read_bytes().count(b"\n") >= lines:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def hashes(bundle: Path) -> dict[str, str]:
    return {p.relative_to(bundle).as_posix(): sha256(p) for p in bundle.rglob("*") if p.is_file()}


def test_a_killed_export_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    whole = finish(start(checkpoint, tmp_path / "clean" / "out"))
    out = tmp_path / "killed" / "out"
    out.parent.mkdir()
    kill_at(start(checkpoint, out), out.parent, 40)
    assert not out.exists()
    (partial,) = out.parent.glob("out.partial-*")
    assert not (partial / "manifest.json").exists()
    done = (partial / "graphs/backbone/weights.bin").stat().st_size
    again = finish(start(checkpoint, out))
    total = (out / "graphs/backbone/weights.bin").stat().st_size
    assert 0 < again < whole
    assert done > 0.5 * total, "it was killed too early to show anything"
    assert again / whole < 1 - done / total + 0.1
    assert hashes(out) == hashes(tmp_path / "clean" / "out")
    assert sorted(p.name for p in out.parent.iterdir()) == ["out"]


def test_two_exports_into_one_place_exclude_each_other(tmp_path: Path) -> None:
    with (
        holding(
            "from pathlib import Path",
            "from m4c.staging import staged",
            f"folder = staged(Path({str(tmp_path / 'out')!r}), 'a' * 16)",
            "folder.__enter__()",
        ),
        pytest.raises(UsageError, match=r"another export into .*out goes on\n.*\n  fix: "),
        staged(tmp_path / "out", "b" * 16),
    ):
        pass
    assert (tmp_path / f"out.partial-{'a' * 16}").is_dir()
    with staged(tmp_path / "out", "b" * 16) as folder:
        (folder / "manifest.json").write_text("one")
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "what the killed one left is removed"
