"""Weights in 4 bits in TFLite through the command line: decode steps of the small LLaMA, Whisper, and what stays float."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from m4c.blockwise import BlockwiseWeight
from m4c.bundle import Manifest, read_manifest
from m4c.compile import compile_bundle, open_sources
from m4c.errors import NumbersError
from m4c.numerics import sqnr
from m4c.progress import Silent
from m4c.read_back import read_back
from m4c.request import Request
from m4c.routes.generate import Cache, generate
from m4c.selftest import selftest
from m4c.static_cache import open_decoder
from m4c.targets.profile import load_target
from m4c.weights import Array, Recipe, array, lazy

ASSET = Path(__file__).parent.parent / "assets" / "tiny_llama"
PAST = 15
PROMPT = "Once upon a time"
TEXT = (ASSET / "heldout.txt").read_text("utf-8")[:400]

Bundle = tuple[Path, Manifest, Request]


def bundle(out: Path, *submodels: str, weights: Path | None = None, precision: str = "int4") -> Bundle:
    """Export into ``out``; nothing may fall back."""
    asked = Request(
        target=load_target("cpu"), submodels=submodels, weights=weights, format="tflite",
        precision=precision, fallback="error", sizes=(("past", PAST),),
    )  # fmt: skip
    compile_bundle(asked, out, Silent())
    return out, read_manifest(out), asked


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("llama") / "bundle", "backbone", weights=ASSET)


def test_steps_follow_eager_torch_with_the_weights_that_are_stored(llama: Bundle) -> None:
    """XNNPACK rounds activations to 8 bits: what remains is noise, and does not grow with the steps."""
    folder, manifest, asked = llama
    record = manifest.graph("backbone/decoder")
    _, _, sources = open_sources(asked, "backbone")
    source = next(one for one in sources if one.name == record.name)
    true = source.with_weights(read_back(folder / record.file.path))
    decoder, cache = open_decoder(folder, record), Cache.of(record)
    growing: dict[str, Array] = dict(cache.empty)
    held = dict(cache.empty)
    embed = open_decoder(folder, manifest.graph("backbone/embed"))
    words = Tokenizer.from_file(str(ASSET / "tokenizer.json")).encode(TEXT).ids[: PAST + 1]
    for done, word in enumerate(words):
        step = {
            "embeds": embed.run({"tokens": np.array([[word]])})["embeds"],
            "positions": np.array([[done]]),
            "mask": np.zeros((1, 1, 1, done + 1), np.float32),
        }
        wanted = true.run({**step, **growing})
        made = decoder.run({**step, **held})
        assert sqnr(wanted["logits"], made["logits"]) > 30
        growing = {name: wanted[present] for name, present in cache.next.items()}
        held = {name: made[present] for name, present in cache.next.items()}
        assert held["past_key_0"].shape[2] == done + 1


def test_the_manifest_says_how_it_was_held(llama: Bundle) -> None:
    folder, manifest, _ = llama
    record = manifest.graph("backbone/decoder")
    assert (record.format, record.precision, record.fallback) == ("tflite", "int4", None)
    assert record.sizes == {"batch": 1, "past": PAST, "sequence": 1}
    assert record.verification.max_relative_error < 1e-5
    assert record.verification.kernel_steps is not None
    assert record.verification.kernel_steps < 0.5
    assert record.verification.runtime_sqnr_db is not None
    assert record.verification.runtime_sqnr_db > 25
    assert record.floats == {}
    assert "quantize-weights{scheme=int4/auto, rtn, LiteRT}" in record.pipeline
    assert record.file.bytes < 2_000_000  # 2.1 M weights in 4 bits and a sixteenth
    assert {one.graph for one in selftest(manifest, folder)} == {"backbone/embed", "backbone/decoder"}


def test_a_text_goes_on(llama: Bundle) -> None:
    made = generate(llama[0], llama[1], PROMPT, 6)
    assert len(made.tokens) == 6
    assert made.text.isprintable()


def test_whisper_keeps_its_convolutions_in_float(tmp_path: Path) -> None:
    folder, manifest, _ = bundle(tmp_path / "bundle", "aud_i_enc", precision="int8-weights")
    encoder = manifest.graph("aud_i_enc/encoder")
    assert set(encoder.floats) == {"model.encoder.conv1", "model.encoder.conv2"}
    assert set(encoder.floats.values()) == {"a convolution, whose kernels stay float"}
    decoder = manifest.graph("aud_i_enc/decoder")
    assert set(decoder.floats) == {"model.decoder.embed_tokens", "proj_out"}
    assert all("both a table and a factor" in reason for reason in decoder.floats.values())
    assert min(one.difference.sqnr_db for one in selftest(manifest, folder)) > 35


def halves(codes: Array) -> Array:
    """Store the halves of each byte the wrong way round."""
    return np.asarray(codes << 4 | codes >> 4, np.uint8)


def shifted(rows: Array) -> Array:
    """Store each row in the place of the next."""
    return np.roll(rows, 1, axis=0)


def swollen(scales: Array) -> Array:
    """Give one row in eight scales that are 8 times as large."""
    scales = scales.copy()
    scales[::8] *= 8
    return scales


@pytest.mark.parametrize(("index", "change"), [(0, halves), (0, shifted), (1, swollen)])
def test_wrong_bytes_never_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int, change: Callable[[Array], Array]
) -> None:
    real = BlockwiseWeight.linear

    def broken(weight: BlockwiseWeight) -> tuple[Recipe, ...]:
        made = list(real(weight))
        held = made[index]
        shape = held.shape.numpy()
        made[index] = lazy(str(held.name), held.dtype, shape, lambda: change(array(held)), origin=weight)
        return tuple(made)

    monkeypatch.setattr(BlockwiseWeight, "linear", broken)
    with pytest.raises(NumbersError, match="was rounded to other values") as caught:
        bundle(tmp_path / "bundle", "gen_dec", weights=ASSET)
    assert "lm_head.weight, rows 0 to" in caught.value.where
    assert not (tmp_path / "bundle").exists()
