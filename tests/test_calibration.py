"""Where calibration samples come from."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m4c.calibration import (
    ONLY,
    RANDOM_HELD,
    RANDOM_SAMPLES,
    RAW,
    UNSEEN,
    Samples,
    samples_for,
    without_samples,
)
from m4c.checkpoints.random import random_weights
from m4c.errors import UsageError
from m4c.float_graphs import FloatGraphs
from m4c.host.prepare import KINDS, prepare
from m4c.host.wav import write_wav
from m4c.match import match
from m4c.models import SUBMODELS, build
from m4c.runners import Runner
from m4c.skeleton import skeleton
from m4c.source import Source, TorchSource


def source(name: str) -> TorchSource:
    with skeleton():
        submodel = build(name.partition("/")[0], "m4-nano")
    (graph,) = (g for g in submodel.graphs if g.name == name)
    return TorchSource(graph, {}, submodel=submodel)


def given(made: TorchSource, calibration: str | None, seed: int) -> Samples:
    """Return samples for which no graph needs to be run."""

    def refuse(source: Source) -> Runner:
        raise AssertionError(source.name)

    return samples_for(made, calibration, seed, refuse)


def test_random_numbers_are_said_to_be_random_and_never_the_verified_ones() -> None:
    made = source("projection/linear")
    samples = given(made, "random", 3)
    assert "random" in samples.described
    values = [sample["embedding"] for sample in samples.items]
    assert len(values) == RANDOM_SAMPLES
    held = [sample["embedding"] for sample in samples.to_verify]
    assert len({value.tobytes() for value in (*values, *held)}) == RANDOM_SAMPLES + RANDOM_HELD
    np.testing.assert_array_equal(held[0], made.sample(3)["embedding"])
    assert samples.verified == UNSEEN


def test_int8_without_samples_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"an integer build needs calibration samples for projection/linear\n  fix: .*random"
    ):
        given(source("projection/linear"), None, 0)


def test_only_raw_files_of_other_graphs_are_no_samples(tmp_path: Path) -> None:
    made = source("aud_i_enc/cross")
    assert not without_samples(made, str(tmp_path))  # an empty folder is a mistake, and refused as one
    (tmp_path / "a.wav").touch()
    assert "embedding" in without_samples(source("projection/linear"), str(tmp_path))
    assert not without_samples(made, str(tmp_path))  # the encoder makes them of the sound
    assert not without_samples(source("aud_i_enc/encoder"), str(tmp_path))
    assert not without_samples(made, "random")
    assert not without_samples(made, None)
    (tmp_path / "aud_i_enc/cross").mkdir(parents=True)
    assert not without_samples(made, str(tmp_path))


def test_arrays_of_the_user(tmp_path: Path) -> None:
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", embedding=np.full((1, 4), index, np.float32))
    samples = given(source("projection/linear"), str(tmp_path), 0)
    assert samples.described == "2 samples of the user"
    for _ in range(2):  # they are read anew each time
        assert [float(s["embedding"].max()) for s in samples.items] == [0, 1]
        assert [float(s["embedding"].max()) for s in samples.to_verify] == [2]
    alone = given(source("projection/linear"), str(tmp_path / "1.npz"), 0)
    assert (alone.described, alone.verified) == ("1 sample of the user", ONLY)
    assert [float(s["embedding"].max()) for s in alone.to_verify] == [1]


def test_images_are_prepared_as_at_run_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.JPG", "notes.txt"):
        pixels = rng.integers(0, 255, (40, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, format="png")
    made = source("img_enc/encoder")
    samples = given(made, str(tmp_path), 0)
    assert samples.described == "1 file of the user"
    (port,) = made.inputs
    expected = [prepare(port.host, tmp_path / name) for name in ("a.png", "b.JPG")]
    for sample, wanted in zip((*samples.items, *samples.to_verify), expected, strict=True):
        assert sample[port.name].shape == port.shape
        np.testing.assert_array_equal(sample[port.name], wanted)


def test_each_graph_may_have_a_folder(tmp_path: Path) -> None:
    own = tmp_path / "projection" / "linear"
    own.mkdir(parents=True)
    np.savez(tmp_path / "0.npz", other=np.zeros(1))
    np.savez(own / "0.npz", embedding=np.ones((1, 4), np.float32))
    for name, wanted in (("projection/linear", "embedding"), ("gen_dec/head", "other")):
        assert [set(s) for s in given(source(name), str(tmp_path), 0).to_verify] == [{wanted}]


def test_what_is_not_there_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no calibration samples at .*none\n  fix: "):
        given(source("gen_dec/head"), str(tmp_path / "none"), 0)
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    with pytest.raises(
        UsageError, match=r"holds no samples for img_enc/encoder\n  fix: .* .png, .jpg, .jpeg, .npz"
    ):
        given(source("img_enc/encoder"), str(tmp_path), 0)
    with pytest.raises(
        UsageError, match=r"holds no samples for gen_dec/head\n  fix: put files into it: .npz"
    ):
        given(source("gen_dec/head"), str(tmp_path), 0)
    with pytest.raises(UsageError, match=r"sound.wav"):
        list(given(source("aud_i_enc/encoder"), str(tmp_path), 0).to_verify)


def test_every_kind_of_file_is_one_that_is_prepared_and_used() -> None:
    kinds = {kind for kinds in RAW.values() for kind in kinds}
    assert kinds <= set(KINDS)
    used = set()
    for name in SUBMODELS:
        with skeleton():
            submodel = build(name, "m4-nano")
        used |= {g.inputs[0].host.get("kind") for g in submodel.graphs if len(g.inputs) == 1}
    assert kinds <= used


@pytest.fixture(scope="module")
def speech() -> Mapping[str, TorchSource]:
    """Return the graphs of speech with random weights; the decoder has room for 11 steps and a call of one."""
    with skeleton():
        submodel = build("aud_i_enc", "m4-nano")
    weights = match(submodel, random_weights(submodel.source, 0))
    facts = {"suppress": [7], "suppress_at_first": []}
    made = {g.name: TorchSource(g, weights, frozenset(), submodel, facts) for g in submodel.graphs}
    name = "aud_i_enc/decoder"
    return {**made, name: made[name].sized({"batch": 1, "sequence": 1, "past": 11})}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Return a folder of three tones."""
    for index in range(3):
        tone = np.sin(np.arange(32000) * 0.1 * (index + 1)).astype(np.float32) / 2
        write_wav(tmp_path / f"{index}.wav", tone, 16000)
    return tmp_path


def test_what_follows_the_encoder_is_calibrated_on_what_it_makes(
    speech: Mapping[str, TorchSource], recordings: Path
) -> None:
    encoder, cross = speech["aud_i_enc/encoder"], speech["aud_i_enc/cross"]
    with FloatGraphs() as floats:
        samples = samples_for(cross, str(recordings), 0, floats.open)
        made = [*samples.items, *samples.to_verify]
    assert samples.described == "2 files of the user, as aud_i_enc/encoder takes them: the route was followed"
    sounds = given(encoder, str(recordings), 0)
    for sample, sound in zip(made, (*sounds.items, *sounds.to_verify), strict=True):
        np.testing.assert_allclose(sample["states"], encoder.run(sound)["states"], rtol=1e-4, atol=1e-4)


def test_a_decoder_is_calibrated_on_the_calls_of_greedy_decoding(
    speech: Mapping[str, TorchSource], recordings: Path
) -> None:
    decoder, one = speech["aud_i_enc/decoder"], recordings / "one"
    one.mkdir()
    (recordings / "0.wav").rename(one / "0.wav")
    with FloatGraphs() as floats:
        samples = samples_for(decoder, str(one), 0, floats.open)
        calls = list(samples.items)
        (shown,) = samples.to_verify
    assert [call["positions"].item() for call in calls] == list(range(12))
    assert calls[0]["tokens"].item() == 256
    for call, following in pairwise(calls):
        assert {name: value.shape for name, value in call.items()} == {
            p.name: p.shape for p in decoder.inputs
        }
        outputs, place = decoder.run(call), call["positions"].item()
        scores = outputs["logits"][0, 0]
        scores[7] = -np.inf
        assert following["tokens"].item() == scores.argmax()
        assert not call["past_key_1"][:, :, place:].any()
        grown = outputs["present_key_1"][:, :, 11:]
        np.testing.assert_allclose(
            following["past_key_1"][:, :, place : place + 1], grown, rtol=1e-4, atol=1e-4
        )
    assert all(np.array_equal(shown[name], calls[-1][name]) for name in shown)


def test_of_many_samples_some_calls_are_taken_and_of_endless_ones_the_first(
    speech: Mapping[str, TorchSource], recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m4c.calibration.FULLY_FOLLOWED", 1)
    monkeypatch.setattr("m4c.calibration.MOST_CALLS", 5)
    with FloatGraphs() as floats:
        samples = samples_for(speech["aud_i_enc/decoder"], str(recordings), 0, floats.open)
        places = [call["positions"].item() for call in samples.items]
        assert [sample["positions"].item() for sample in samples.to_verify] == [4]
    assert places == [0, 2, 4, 1, 3]
    assert samples.verified == f"the last call along the route from {UNSEEN}"


def test_samples_of_the_user_for_a_later_graph_are_taken_instead(
    speech: Mapping[str, TorchSource], recordings: Path
) -> None:
    cross = speech["aud_i_enc/cross"]
    np.savez(recordings / "own.npz", states=cross.sample(0)["states"] + 99)
    (kept,) = given(cross, str(recordings / "own.npz"), 0).to_verify
    assert kept["states"].min() > 50
    own = recordings / "aud_i_enc" / "cross"
    own.mkdir(parents=True)
    (recordings / "own.npz").rename(own / "0.npz")
    assert given(cross, str(recordings), 0).described == "1 sample of the user"


def test_arrays_of_the_first_graph_are_followed_too(
    speech: Mapping[str, TorchSource], tmp_path: Path
) -> None:
    np.savez(tmp_path / "0.npz", mel=speech["aud_i_enc/encoder"].sample(0)["mel"])
    with FloatGraphs() as floats:
        samples = samples_for(speech["aud_i_enc/cross"], str(tmp_path), 0, floats.open)
        assert [set(sample) for sample in samples.items] == [{"states"}]
    assert samples.described.startswith("1 sample of the user, as aud_i_enc/encoder takes them")
