"""The door to preparation: every kind reaches its maker with its parameters, and wrong descriptions are refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m4c.errors import BundleError, UsageError
from m4c.host import clip_merges
from m4c.host.fbank import FbankSettings, imagebind_audio
from m4c.host.image import prepare_image
from m4c.host.log_mel import log_mel
from m4c.host.prepare import KINDS, prepare
from m4c.host.resample import resample
from m4c.host.text import JsonTokenizer
from m4c.host.wav import read_wav, write_wav

Array = np.ndarray


def test_host_side_preparation_needs_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, m4c.host\n"
        "for room in pkgutil.iter_modules(m4c.host.__path__): importlib.import_module('m4c.host.' + room.name)\n"
        "print(sorted({'torch', 'transformers', 'onnx_ir', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_image(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    host = {"kind": "image", "size": 28, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    np.testing.assert_array_equal(prepare(host, pixels), prepare_image(pixels, 28, (0.5,) * 3, (0.25,) * 3))
    np.testing.assert_array_equal(prepare({"kind": "image"}, pixels), prepare_image(pixels))


def test_sounds_come_as_files_as_pairs_and_as_samples(tmp_path: Path, rng: np.random.Generator) -> None:
    sound = (rng.standard_normal(22050) * 0.1).astype(np.float32)
    write_wav(tmp_path / "a.wav", sound, 22050)
    stored = read_wav(tmp_path / "a.wav")[0]
    heard = resample(stored, 22050, 16000)
    mel = {"kind": "log-mel", "sample_rate": 16000, "bins": 20, "frames": 100}
    for raw in (tmp_path / "a.wav", str(tmp_path / "a.wav"), (stored, 22050), heard):
        np.testing.assert_array_equal(prepare(mel, raw), log_mel(heard, bins=20, frames=100))
    fbank = {
        "kind": "fbank",
        "bins": 16,
        "frames": 50,
        "clips": 2,
        "clip_seconds": 0.5,
        "mean": 1,
        "std": 2.0,
    }
    form = FbankSettings(bins=16, frames=50, clips=2, clip_seconds=0.5, mean=1.0, std=2.0)
    np.testing.assert_array_equal(prepare(fbank, heard), imagebind_audio(heard, form))


def test_motion(tmp_path: Path, rng: np.random.Generator) -> None:
    recording = rng.standard_normal((6, 70)).astype(np.float32)
    np.save(tmp_path / "a.npy", recording.T)
    for raw in (tmp_path / "a.npy", recording):
        made = prepare({"kind": "imu", "samples": 64}, raw)
        np.testing.assert_array_equal(made, recording[None, :, :64])


def test_text(tmp_path: Path) -> None:
    made = prepare({"kind": "bytes", "context": 4, "start": 998, "end": 999}, "hi")
    np.testing.assert_array_equal(made, [[998, 104, 105, 999]])
    prompt = {"kind": "bytes", "start": [300, 301], "end": 302}
    np.testing.assert_array_equal(prepare(prompt, "hi"), [[300, 301, 104, 105]])
    np.testing.assert_array_equal(prepare(prompt, ""), [[300, 301]])
    host = {"kind": "phonemes", "symbols": ["_", "a", "."], "end": 2}
    np.testing.assert_array_equal(prepare(host, "a a"), [[1, 1, 2]])
    (tmp_path / "vocab.txt").write_text("AH0 12\nHH 9\n")
    host = {"kind": "phonemes", "asset": "vocab.txt", "end": 2, "pad": 1, "length": 5}
    np.testing.assert_array_equal(prepare(host, "HH AH0", tmp_path), [[5, 4, 2, 1, 1]])
    (tmp_path / "merges.txt").write_text("h i</w>\n")
    made = prepare({"kind": "clip-bpe", "asset": "merges.txt", "context": 5}, "hi", tmp_path)
    np.testing.assert_array_equal(made, [[513, 512, 514, 0, 0]])
    with pytest.raises(BundleError, match=r"'end' .* it must be 514, by the merges"):
        prepare({"kind": "clip-bpe", "asset": "merges.txt", "end": 49407}, "hi", tmp_path)


def test_a_tokenizer_file_gets_its_start_tokens(tmp_path: Path) -> None:
    path = tmp_path / "merges.txt"
    path.write_text("h i</w>\n")
    clip_merges.load(path).tokenizer.save(str(tmp_path / "tokenizer.json"))
    host = {"kind": "json-tokenizer", "asset": "tokenizer.json", "start": [7, 8]}
    ids = JsonTokenizer(tmp_path / "tokenizer.json").encode("hi")[0]
    made = prepare(host, "hi", tmp_path)
    assert made.dtype == np.int64
    np.testing.assert_array_equal(made, [[7, 8, *ids]])
    np.testing.assert_array_equal(prepare(host, "", tmp_path), [[7, 8]])


@pytest.mark.parametrize("kind", ["smell", None, 3])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind: object) -> None:
    with pytest.raises(BundleError, match="does not know") as caught:
        prepare({"kind": kind}, "x")
    assert all(known in caught.value.fix for known in KINDS)


@pytest.mark.parametrize(
    ("host", "what"),
    [
        (
            {"kind": "image", "size": "big"},
            "'size' of an input of kind image is 'big', it must be a whole number",
        ),
        ({"kind": "image", "size": 0}, "'size' .* a whole number from 1 up"),
        ({"kind": "image", "mean": [1, 2]}, "'mean' .* 3 numbers"),
        ({"kind": "image", "std": 1}, "'std' .* a list of numbers"),
        ({"kind": "fbank", "mean": "m"}, "'mean' .* a number"),
        ({"kind": "log-mel", "bins": True}, "'bins' .* whole"),
        ({"kind": "clip-bpe"}, "'asset' .* is None"),
        ({"kind": "json-tokenizer", "asset": "../t.json"}, "inside the bundle"),
        ({"kind": "json-tokenizer", "asset": "/etc/passwd"}, "inside the bundle"),
        ({"kind": "phonemes"}, "'asset' .* is None"),
        ({"kind": "phonemes", "symbols": "ab"}, "'symbols' .* a list of symbols"),
        ({"kind": "phonemes", "symbols": ["a"], "end": "."}, "'end' .* a whole number from 0 up"),
        ({"kind": "bytes", "start": 7}, "'start' .* a list of numbers"),
    ],
)
def test_wrong_parameters_are_the_bundles_fault(
    host: dict[str, Any], what: str, rng: np.random.Generator
) -> None:
    raw: object = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) if host["kind"] == "image" else "x"
    with pytest.raises(BundleError, match=what) as caught:
        prepare(host, raw)
    assert caught.value.fix


@pytest.mark.parametrize("kind", ["image", "log-mel", "fbank", "imu", "bytes"])
def test_the_wrong_kind_of_raw_input_is_the_users_fault(kind: str) -> None:
    with pytest.raises(UsageError, match=r"this input is made of .* not of NoneType"):
        prepare({"kind": kind}, None)


def test_a_recording_of_other_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="not 6 channels"):
        prepare({"kind": "imu"}, np.zeros((2000, 6)))
