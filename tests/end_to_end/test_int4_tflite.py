"""Weights in 4 bits in TFLite through the command line: decode steps of the small LLaMA, Whisper, and what stays float."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from m4c import cli
from m4c.assemble import open_sources
from m4c.blockwise import BlockwiseWeight
from m4c.bundle import Manifest, read_manifest
from m4c.compile import compile_bundle
from m4c.errors import BundleError, NumbersError
from m4c.numerics import sqnr
from m4c.progress import Silent
from m4c.read_back import read_back
from m4c.request import Request
from m4c.routes.generate import Cache, generate
from m4c.selftest import selftest
from m4c.static_cache import StaticSteps, open_decoder
from m4c.targets.profile import load_target
from m4c.weights import Array, Recipe, array, lazy
from tests.bundles import Copy, require_schema, update_hash

ASSET = Path(__file__).parent.parent / "assets" / "tiny_llama"
PAST = 15
STEPS = 8
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


@pytest.fixture(scope="module")
def signatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same with a signature for prompts, made on the command line."""
    out = tmp_path_factory.mktemp("signatures") / "bundle"
    sizes = [f"--size={size}" for size in (f"past={PAST}", "sequence=1", f"sequence={STEPS}")]
    m4c(
        "export", "backbone", "--weights", str(ASSET), "--format", "tflite", "--quantize", "int4",
        "--fallback", "error", "--jobs", "1", *sizes, "-o", str(out),
    )  # fmt: skip
    return out


def m4c(*arguments: str) -> None:
    """Run the command, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["m4c", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0


def test_a_signature_for_prompts_over_the_same_weights(llama: Bundle, signatures: Path) -> None:
    """Each is held against the source; what the file grows by is its structure, however many weights there are."""
    record, alone = (read_manifest(folder).graph("backbone/decoder") for folder in (signatures, llama[0]))
    one, many = record.signatures
    assert (one.signature, many.signature) == ("decode", f"prefill_{STEPS}")
    assert many.sizes == {"batch": 1, "past": PAST, "sequence": STEPS}
    assert [port.shape for port in many.inputs[:3]] == [
        (1, STEPS, 256), (1, STEPS), (1, 1, STEPS, PAST + STEPS),
    ]  # fmt: skip
    assert one.inputs == alone.inputs
    assert alone.file.bytes < record.file.bytes < alone.file.bytes + 40_000
    for view in (one, many):
        assert view.verification.max_relative_error < 1e-5
        assert (view.verification.runtime_sqnr_db or 0) > 25
    found = selftest(read_manifest(signatures), signatures)
    assert [figures.graph.partition(" ")[2] for figures in found] == 2 * ["decode", f"prefill_{STEPS}"]
    require_schema(signatures)


def test_a_prompt_at_once_is_continued_as_a_step_a_call(
    llama: Bundle, signatures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = StaticSteps._call

    def call(steps: StaticSteps, sequence: int, *rest: Any) -> Any:
        taken.append(sequence)
        return real(steps, sequence, *rest)

    monkeypatch.setattr(StaticSteps, "_call", call)
    texts = []
    for folder in (llama[0], signatures):
        m4c("run", str(folder), "--task", "T1", "--text", PROMPT, "--max-tokens", "6")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert len(texts[0]) > 2
    prompt = len(Tokenizer.from_file(str(ASSET / "tokenizer.json")).encode(PROMPT).ids)
    assert 1 < prompt <= STEPS
    assert taken == [1] * 2 * (prompt + 5) + [STEPS] * 2 + [1] * 2 * 5  # each by embed and by decoder


def test_numbers_of_one_signature_that_differ_are_found(signatures: Path, copied: Copy) -> None:
    folder = copied(signatures)
    record = read_manifest(folder).graph("backbone/decoder").signatures[1].vector
    content = np.fromfile(folder / record.path, np.uint8)
    content[-4096:][3::4] ^= 0x80  # signs of numbers of the last cache
    content.tofile(folder / record.path)
    with pytest.raises(BundleError, match=r"decoder\.prefill_8\.safetensors was altered"):
        selftest(read_manifest(folder), folder)
    update_hash(folder, record)
    with pytest.raises(NumbersError, match="backbone/decoder differs from its test vector"):
        selftest(read_manifest(folder), folder)


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
