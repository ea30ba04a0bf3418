"""Greedy decoding with a decoder that says what it is told to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from m4c.bundle import Manifest, read_manifest
from m4c.compile import compile_bundle
from m4c.errors import BundleError, UsageError
from m4c.host.greedy import decode
from m4c.host.wav import write_wav
from m4c.progress import Silent
from m4c.request import Request
from m4c.routes.transcribe import transcribe
from m4c.targets.profile import load_target
from m4c.tasks import TASKS

Array = np.ndarray

WORDS = 12
FACTS: dict[str, object] = {"start": [1, 2], "end": 11, "max_tokens": 8}
HEARD = {"cross_key": np.full((1, 2), 7, np.float32)}
PAST = {"past_key_0": np.zeros((1, 1, 0, 2), np.float32)}


class Parrot:
    """Prefers, at each call, the tokens of one list in their order; its cache counts the steps."""

    def __init__(self, *preferences: Sequence[int]) -> None:
        self.preferences = preferences
        self.calls: list[dict[str, Array]] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return read-only scores and a cache longer by the tokens of the call."""
        preferred = self.preferences[min(len(self.calls), len(self.preferences) - 1)]
        self.calls.append(dict(inputs))
        steps = inputs["tokens"].shape[1]
        logits = np.full((1, steps, WORDS), -9, np.float32)
        logits[0, :-1, 3] = 99  # scores of earlier positions do not matter
        for rank, token in enumerate(preferred):
            logits[0, -1, token] = 9 - rank
        logits.flags.writeable = False
        grown = np.full((1, 1, steps, 2), len(self.calls), np.float32)
        return {"logits": logits, "present_key_0": np.concatenate([inputs["past_key_0"], grown], axis=2)}


def decoded(parrot: Parrot, **facts: object) -> list[int]:
    return list(decode(parrot.run, HEARD, dict(PAST), {**FACTS, **facts}))


def test_it_stops_at_the_end_token() -> None:
    parrot = Parrot([5], [6], [11], [7])
    assert decoded(parrot) == [5, 6]
    assert len(parrot.calls) == 3


def test_it_stops_at_the_last_position() -> None:
    parrot = Parrot([5])
    assert decoded(parrot) == [5] * 7  # 2 start tokens give the first, six more positions the rest
    assert parrot.calls[-1]["positions"].max() == 7
    assert decoded(Parrot([5]), max_tokens=2) == [5]
    assert decoded(Parrot([5]), max_tokens=1) == []


def test_start_tokens_come_at_once_and_then_one_by_one() -> None:
    parrot = Parrot([5], [6], [11])
    decoded(parrot)
    assert [call["tokens"].tolist() for call in parrot.calls] == [[[1, 2]], [[5]], [[6]]]
    assert [call["positions"].ravel().tolist() for call in parrot.calls] == [[0, 1], [2], [3]]
    assert [call["mask"].shape[-2:] for call in parrot.calls] == [(2, 2), (1, 3), (1, 4)]


def test_the_cache_and_what_was_heard_are_passed_on() -> None:
    parrot = Parrot([5], [6], [11])
    decoded(parrot)
    assert [call["past_key_0"][0, 0, :, 0].tolist() for call in parrot.calls] == [[], [1, 1], [1, 1, 2]]
    assert all(call["cross_key"] is HEARD["cross_key"] for call in parrot.calls)


def test_suppressed_tokens_are_never_chosen() -> None:
    assert decoded(Parrot([4, 5], [4, 6], [4, 11]), suppress=[4]) == [5, 6]


def test_some_are_suppressed_at_first_only() -> None:
    assert decoded(Parrot([11, 4, 5], [4], [11]), suppress_at_first=[11, 4]) == [5, 4]


def test_timestamps_are_no_text() -> None:
    assert decoded(Parrot([9, 5], [8, 6], [9, 7]), first_timestamp=8, max_tokens=4) == [5, 6, 7]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Return a bundle of the speech graphs, of random weights."""
    out = tmp_path_factory.mktemp("speech") / "bundle"
    compile_bundle(Request(target=load_target("cpu"), submodels=("aud_i_enc",)), out, Silent())
    return out, read_manifest(out)


def test_a_sound_becomes_text(speech: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = speech
    tone = np.sin(np.arange(16000) * 0.2).astype(np.float32) / 2
    write_wav(tmp_path / "tone.wav", tone, 16000)
    first = transcribe(folder, manifest, tmp_path / "tone.wav")
    assert first == transcribe(folder, manifest, tmp_path / "tone.wav")
    assert isinstance(first, str)
    assert manifest.routes == {"T32": TASKS["T32"].by(TASKS["T32"].graphs)}


def test_other_files_are_no_sound(speech: tuple[Path, Manifest], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"text")
    with pytest.raises(UsageError, match="not a WAV file"):
        transcribe(*speech, tmp_path / "a.wav")


def test_a_bundle_without_the_graphs_says_so(float_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"the bundle has no aud_i_enc/encoder\n  fix: it has: projection/linear"
    ):
        transcribe(float_bundle, read_manifest(float_bundle), tmp_path / "a.wav")
