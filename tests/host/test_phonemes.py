"""Phoneme ids: places in a list, and in fairseq's dictionary."""

from pathlib import Path

import numpy as np
import pytest

from m4c.errors import UsageError
from m4c.host.phonemes import PhonemeTokenizer, read_dictionary

SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>", "AH0", "HH", "L", "OW1")


def test_ids_are_places_with_end_and_padding() -> None:
    row = PhonemeTokenizer(SYMBOLS).encode("HH AH0  L OW1")
    assert row.dtype == np.int64
    np.testing.assert_array_equal(row, [[5, 4, 6, 7]])
    np.testing.assert_array_equal(PhonemeTokenizer(SYMBOLS, end=2).encode("L"), [[6, 2]])
    padded = PhonemeTokenizer(SYMBOLS, end=2, length=4)
    np.testing.assert_array_equal(padded.encode("L"), [[6, 2, 1, 1]])
    np.testing.assert_array_equal(padded.encode("L L L"), [[6, 6, 6, 2]])


def test_speech_is_never_cut_or_guessed() -> None:
    tokenizer = PhonemeTokenizer(SYMBOLS, end=2, length=4)
    with pytest.raises(UsageError, match="5 symbols with its end, the model takes 4"):
        tokenizer.encode("L L L L")
    with pytest.raises(UsageError, match="unknown symbols: XX ZZ") as caught:
        tokenizer.encode("HH ZZ XX")
    assert caught.value.fix.endswith("AH0 HH L OW1")
    with pytest.raises(UsageError, match="no symbols"):
        tokenizer.encode("  ")


def test_lists_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="occur twice: a"):
        PhonemeTokenizer(("a", "b", "a"))
    with pytest.raises(UsageError, match="id 2 is not one of 1 symbols"):
        PhonemeTokenizer(("a",), end=2)
    with pytest.raises(UsageError, match="id 1 is not one of 1 symbols"):
        PhonemeTokenizer(("a",), length=3)


def test_the_dictionary_starts_with_fairseqs_special_symbols(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("AH0 1204\nHH 77\n\nL 5\nOW1 1\n")
    assert read_dictionary(path) == SYMBOLS
    path.write_text("")
    with pytest.raises(UsageError, match="no symbols"):
        read_dictionary(path)
    with pytest.raises(UsageError, match="cannot read the symbols") as caught:
        read_dictionary(tmp_path / "none.txt")
    assert caught.value.fix
