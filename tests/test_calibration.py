"""Where calibration samples come from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m4c.calibration import ONLY, RANDOM_SAMPLES, RAW, UNSEEN, samples_for, without_samples
from m4c.errors import UsageError
from m4c.host.prepare import KINDS, prepare
from m4c.models import SUBMODELS, build
from m4c.skeleton import skeleton
from m4c.source import TorchSource


def source(name: str) -> TorchSource:
    with skeleton():
        submodel = build(name.partition("/")[0], "m4-nano")
    (graph,) = (g for g in submodel.graphs if g.name == name)
    return TorchSource(graph, {})


def test_random_numbers_are_said_to_be_random_and_never_the_verified_ones() -> None:
    made = source("projection/linear")
    samples = samples_for(made, "random", seed=3)
    assert "random" in samples.described
    values = [sample["embedding"] for sample in samples.items]
    assert len(values) == RANDOM_SAMPLES
    held = samples.to_verify()["embedding"]
    assert len({value.tobytes() for value in (*values, held)}) == RANDOM_SAMPLES + 1
    np.testing.assert_array_equal(held, made.sample(3)["embedding"])
    assert samples.verified == UNSEEN


def test_int8_without_samples_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"an integer build needs calibration samples for projection/linear\n  fix: .*random"
    ):
        samples_for(source("projection/linear"), None, 0)


def test_only_raw_files_of_other_graphs_are_no_samples(tmp_path: Path) -> None:
    made = source("aud_i_enc/cross")
    assert not without_samples(made, str(tmp_path))  # an empty folder is a mistake, and refused as one
    (tmp_path / "a.wav").touch()
    assert "states" in without_samples(made, str(tmp_path))
    assert not without_samples(source("aud_i_enc/encoder"), str(tmp_path))
    assert not without_samples(made, "random")
    assert not without_samples(made, None)
    (tmp_path / "aud_i_enc/cross").mkdir(parents=True)
    assert not without_samples(made, str(tmp_path))


def test_arrays_of_the_user(tmp_path: Path) -> None:
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", embedding=np.full((1, 4), index, np.float32))
    samples = samples_for(source("projection/linear"), str(tmp_path), 0)
    assert samples.described == "2 samples of the user"
    for _ in range(2):  # they are read anew each time
        assert [float(s["embedding"].max()) for s in samples.items] == [0, 1]
        assert samples.to_verify()["embedding"].max() == 2
    alone = samples_for(source("projection/linear"), str(tmp_path / "1.npz"), 0)
    assert (alone.described, alone.verified) == ("1 sample of the user", ONLY)
    assert alone.to_verify()["embedding"].max() == 1


def test_images_are_prepared_as_at_run_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.JPG", "notes.txt"):
        pixels = rng.integers(0, 255, (40, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, format="png")
    made = source("img_enc/encoder")
    samples = samples_for(made, str(tmp_path), 0)
    assert samples.described == "1 file of the user"
    (port,) = made.inputs
    expected = [prepare(port.host, tmp_path / name) for name in ("a.png", "b.JPG")]
    for sample, wanted in zip((*samples.items, samples.to_verify()), expected, strict=True):
        assert sample[port.name].shape == port.shape
        np.testing.assert_array_equal(sample[port.name], wanted)


def test_each_graph_may_have_a_folder(tmp_path: Path) -> None:
    own = tmp_path / "projection" / "linear"
    own.mkdir(parents=True)
    np.savez(tmp_path / "0.npz", other=np.zeros(1))
    np.savez(own / "0.npz", embedding=np.ones((1, 4), np.float32))
    assert set(samples_for(source("projection/linear"), str(tmp_path), 0).to_verify()) == {"embedding"}
    assert set(samples_for(source("gen_dec/head"), str(tmp_path), 0).to_verify()) == {"other"}


def test_what_is_not_there_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no calibration samples at .*none\n  fix: "):
        samples_for(source("gen_dec/head"), str(tmp_path / "none"), 0)
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    with pytest.raises(
        UsageError, match=r"holds no samples for img_enc/encoder\n  fix: .* .png, .jpg, .jpeg, .npz"
    ):
        samples_for(source("img_enc/encoder"), str(tmp_path), 0)
    with pytest.raises(
        UsageError, match=r"holds no samples for gen_dec/head\n  fix: put files into it: .npz"
    ):
        samples_for(source("gen_dec/head"), str(tmp_path), 0)
    with pytest.raises(UsageError, match=r"sound.wav"):
        samples_for(source("aud_i_enc/encoder"), str(tmp_path), 0).to_verify()


def test_every_kind_of_file_is_one_that_is_prepared_and_used() -> None:
    kinds = {kind for kinds in RAW.values() for kind in kinds}
    assert kinds <= set(KINDS)
    used = set()
    for name in SUBMODELS:
        with skeleton():
            submodel = build(name, "m4-nano")
        used |= {g.inputs[0].host.get("kind") for g in submodel.graphs if len(g.inputs) == 1}
    assert kinds <= used
