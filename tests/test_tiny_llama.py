"""The asset tests/assets/tiny_llama: it loads by every reader, predicts its held-out text, and says what its card shows."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.benchmarks.train_tiny_llama import CONTINUATION, PROMPT, VOCABULARY, WINDOW, greedy, perplexity

FOLDER = Path(__file__).parent / "assets" / "tiny_llama"
LARGEST_BYTES = 6_000_000
MEASURED_TOKENS = 8 * WINDOW
MEASURED_PERPLEXITY = 19.613  # of the first MEASURED_TOKENS tokens of heldout.txt, float16 weights in float32
TOLERANCE = 1.005  # rounding of another machine; int4 weights, one scale a row, cost twice as much


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def held_out() -> str:
    return (FOLDER / "heldout.txt").read_text(encoding="utf-8")


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST_BYTES


def test_every_linear_reads_whole_groups_of_256(model: LlamaForCausalLM) -> None:
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 4 * 7 + 1
    assert all(linear.in_features % 256 == 0 for linear in linears)


def test_tokenizers_agree_and_give_the_text_back(tokenizer: Tokenizer, held_out: str) -> None:
    ids = tokenizer.encode(held_out).ids
    by_transformers = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert by_transformers(held_out, verbose=False).input_ids == ids  # the text is longer than the context
    assert (ids[0], by_transformers.bos_token_id, by_transformers.eos_token_id) == (0, 0, 1)
    assert tokenizer.decode(ids) == held_out


def test_held_out_perplexity(model: LlamaForCausalLM, tokenizer: Tokenizer, held_out: str) -> None:
    ids = tokenizer.encode(held_out, add_special_tokens=False).ids
    found = perplexity(model, torch.tensor(ids[:MEASURED_TOKENS]))
    assert MEASURED_PERPLEXITY / TOLERANCE < found < MEASURED_PERPLEXITY * TOLERANCE


def test_the_card_shows_the_greedy_continuation(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    sample = tokenizer.decode(greedy(model, tokenizer.encode(PROMPT).ids, CONTINUATION))
    assert f"```text\n{sample}\n```" in (FOLDER / "README.md").read_text(encoding="utf-8")
