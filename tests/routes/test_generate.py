"""What follows a prompt, token for token as transformers generates it; and decoding with a step that says what it is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from m4c.bundle import Manifest, read_manifest
from m4c.compile import compile_bundle
from m4c.errors import BundleError, UsageError
from m4c.progress import Silent
from m4c.request import Request
from m4c.routes.generate import Cache, decode, generate
from m4c.targets.profile import load_target
from tests import tiny_backbone

Array = np.ndarray
Bundle = tuple[Path, Manifest]

PROMPT = "Once upon a time"
CACHE = Cache({"past_a": np.zeros((1, 1, 0, 2), np.float32)}, {"past_a": "present_a"})


class Parrot:
    """Prefers, at each call, the next token of a list; its cache counts the steps."""

    def __init__(self, *preferred: int) -> None:
        self.preferred = preferred
        self.calls: list[tuple[list[list[int]], int, int]] = []

    def step(self, tokens: Array, done: int, past: dict[str, Array]) -> dict[str, Array]:
        """Return scores of 12 tokens and a cache longer by the tokens of the call."""
        logits = np.zeros((1, tokens.shape[1], 12), np.float32)
        logits[0, :-1, 3] = 9  # scores of earlier positions do not matter
        logits[0, -1, self.preferred[min(len(self.calls), len(self.preferred) - 1)]] = 1
        self.calls.append((tokens.tolist(), done, past["past_a"].shape[2]))
        grown = np.zeros((1, 1, tokens.shape[1], 2), np.float32)
        return {"logits": logits, "present_a": np.concatenate([past["past_a"], grown], axis=2)}


def decoded(parrot: Parrot, *, limit: int = 99, count: int = 99) -> list[int]:
    return list(decode(parrot.step, CACHE, [1, 2], [10, 11], limit, count))


@pytest.mark.parametrize("end", [10, 11])
def test_it_stops_at_an_end_token(end: int) -> None:
    parrot = Parrot(5, 6, end, 7)
    assert decoded(parrot) == [5, 6]
    assert len(parrot.calls) == 3


def test_it_stops_at_the_number_of_tokens_and_at_the_last_position() -> None:
    assert decoded(Parrot(5), count=3) == [5, 5, 5]
    assert decoded(Parrot(5), count=0) == []
    assert decoded(Parrot(5), limit=6) == [5, 5, 5, 5]


def test_the_prompt_comes_at_once_and_then_one_by_one() -> None:
    parrot = Parrot(5, 6, 10)
    decoded(parrot)
    assert parrot.calls == [([[1, 2]], 0, 0), ([[5]], 2, 2), ([[6]], 3, 3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """Return a checkpoint's folder and its model."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, tiny_backbone.save(folder)


@pytest.fixture(scope="module", params=["standard", "genai", "tflite", "tflite of 8"])
def bundle(
    request: pytest.FixtureRequest,
    model: tuple[Path, LlamaForCausalLM],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """Return a bundle of the checkpoint over two graphs, and over one; caches grow, or are masked."""
    out = tmp_path_factory.mktemp("generate") / "bundle"
    form: dict[str, Any] = {"dialect": request.param}
    if "tflite" in request.param:  # a prompt in two calls, the second of which is not full
        form = {"format": "tflite", "sizes": (("sequence", 8),) if "8" in request.param else ()}
        form["sizes"] += (("past", 56),) if form["sizes"] else ()
    wanted = Request(target=load_target("cpu"), submodels=("backbone",), weights=model[0], **form)
    compile_bundle(wanted, out, Silent())
    return out, read_manifest(out)


def test_a_prompt_is_continued_as_by_transformers(
    bundle: Bundle, model: tuple[Path, LlamaForCausalLM]
) -> None:
    folder, manifest = bundle
    made = generate(folder, manifest, PROMPT, 40)
    tokenizer = AutoTokenizer.from_pretrained(model[0])
    assert list(made.prompt) == tokenizer(PROMPT)["input_ids"]
    assert list(made.tokens) == tiny_backbone.reference(model[1], made.prompt, 40)
    assert len(set(made.tokens)) > 8
    whole = tokenizer.decode([*made.prompt, *made.tokens], skip_special_tokens=True)
    assert PROMPT + made.text == whole
    assert set(manifest.routes) == {"T1", "T2", "T4", "T7"}


def test_a_prompt_must_fit(bundle: Bundle) -> None:
    folder, manifest = bundle
    most = manifest.graphs[-1].sizes.get("past", 63) + 1
    with pytest.raises(
        UsageError, match=f"the prompt has {most + 1} tokens, the model knows {most} positions"
    ):
        generate(folder, manifest, "x" * most)
    assert len(generate(folder, manifest, "x" * (most - 2), 9).tokens) <= 1


def test_a_bundle_without_the_graphs_says_so(float_bundle: Path) -> None:
    with pytest.raises(BundleError, match="the bundle has no backbone/decoder"):
        generate(float_bundle, read_manifest(float_bundle), PROMPT)
