"""Tokenizers of bytes and of tokenizer.json."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from m4c.errors import UsageError
from m4c.host.text import ByteTokenizer, JsonTokenizer


def test_bytes_are_framed_and_padded() -> None:
    row = ByteTokenizer(context=8).encode("aé")
    assert row.dtype == np.int64
    np.testing.assert_array_equal(row, [[256, 97, 0xC3, 0xA9, 257, 0, 0, 0]])
    assert row.argmax() == 4  # the end has the largest id


@pytest.mark.parametrize("text", ["", "hello", "naïve 日本", "😀"])
def test_bytes_come_back(text: str) -> None:
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)[0].tolist()) == text


def test_long_text_is_cut_before_its_end() -> None:
    row = ByteTokenizer(context=5).encode("abcdefgh")
    np.testing.assert_array_equal(row, [[256, 97, 98, 99, 257]])


def test_a_tokenizer_file(tmp_path: Path) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the cat and the dog"] * 3, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = JsonTokenizer(tmp_path / "tokenizer.json")
    row = tokenizer.encode("the dog, naïve")
    assert (row.shape[0], row.dtype) == (1, np.dtype("int64"))
    assert row[0].tolist() == made.encode("the dog, naïve").ids
    assert tokenizer.decode([*row[0], 0]) == "the dog, naïve"  # the special token is left out


def test_a_tokenizer_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UsageError, match="missing"):
        JsonTokenizer(path)
    path.write_text('{"version": "1.0"}')
    with pytest.raises(UsageError, match="not a tokenizer") as caught:
        JsonTokenizer(path)
    assert caught.value.fix
