"""CLIP's tokenizer against transformers', both built on one tiny list of merges."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from m4c.errors import UsageError
from m4c.host import clip_merges

MERGES = [
    "t h",
    "th e</w>",
    "c a",
    "ca t</w>",
    "o f</w>",
    "p h",
    "ph o",
    "1 2",
    "Ã ©",
    "a n",
    "an d</w>",
    "d o",
    "do g</w>",
]
HEADER = '"bpe_simple_vocab_16e6.txt#version: 0.2'

TEXTS = [
    "a photo of the cat",
    "  The CAT,\n\tand the dog's  12 hats! ",
    "café cafe\u0301 naïve ½ ﬁ",
    "日本語 привет 😀",
    "don't we'll I'm <|endoftext|> 1234",
    "",
    "cat " * 100,
]


@pytest.fixture
def merges(tmp_path: Path) -> Path:
    path = tmp_path / "merges.txt"
    path.write_text("\n".join([HEADER, *MERGES]) + "\n", encoding="utf-8")
    return path


def vocabulary() -> dict[str, int]:
    signs = clip_merges.byte_signs()
    words = [*signs, *(s + "</w>" for s in signs), *(m.replace(" ", "") for m in MERGES)]
    return {word: place for place, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}


@pytest.mark.parametrize("text", TEXTS)
def test_equals_transformers(text: str, merges: Path) -> None:
    theirs = CLIPTokenizer(vocab=vocabulary(), merges=[(m.split(" ")[0], m.split(" ")[1]) for m in MERGES])
    wanted = theirs(text, truncation=True, max_length=77)["input_ids"]
    ours = clip_merges.load(merges)
    row = ours.encode(text)
    assert (row.shape, row.dtype) == ((1, 77), np.dtype("int64"))
    assert row[0, : len(wanted)].tolist() == wanted
    assert not row[0, len(wanted) :].any()
    assert (ours.start, ours.end) == (512 + len(MERGES), 513 + len(MERGES))


def test_merges_happen(merges: Path) -> None:
    row = clip_merges.load(merges).encode("the cat")[0]
    assert row[:4].tolist() == [512 + 13, 512 + 1, 512 + 3, 513 + 13]


def test_the_gzipped_list_of_more_lines_and_the_pair_of_files_agree(merges: Path, tmp_path: Path) -> None:
    packed, stored = tmp_path / "bpe.txt.gz", tmp_path / "vocab.json"
    packed.write_bytes(gzip.compress(merges.read_bytes()))
    stored.write_text(json.dumps(vocabulary()))
    wanted = clip_merges.load(merges).encode("the photo")
    np.testing.assert_array_equal(clip_merges.load(packed).encode("the photo"), wanted)
    np.testing.assert_array_equal(clip_merges.load(merges, stored).encode("the photo"), wanted)


def test_only_the_lines_that_clip_uses_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    signs = clip_merges.byte_signs()
    pairs = [f"{a} {b}" for a in signs for b in signs]
    path.write_text("\n".join([HEADER, *pairs]), encoding="utf-8")
    made = clip_merges.load(path)
    assert (made.start, made.end) == (49406, 49407)


def test_html_is_unescaped_and_padding_is_an_option(merges: Path) -> None:
    plain = clip_merges.load(merges)
    np.testing.assert_array_equal(plain.encode("cat &amp;amp; dog"), plain.encode("cat & dog"))
    diffusion = clip_merges.load(merges, pad=525, context=6)
    assert diffusion.encode("cat")[0].tolist() == [525, 515, 526, 525, 525, 525]


def test_the_signs_of_the_bytes() -> None:
    signs = clip_merges.byte_signs()
    assert len(set(signs)) == 256
    assert (signs[0], signs[93], signs[188]) == ("!", "~", "Ā")


def test_files_that_do_not_fit_are_refused(merges: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the merges"):
        clip_merges.load(tmp_path / "none.txt")
    bad = tmp_path / "bad.txt"
    bad.write_text("one two three\n")
    with pytest.raises(UsageError, match="not a list of merges: 'one two three'"):
        clip_merges.load(bad)
    bad.write_text("")
    with pytest.raises(UsageError, match="it is empty"):
        clip_merges.load(bad)
    bad.write_text("zz q\n")
    with pytest.raises(UsageError, match="'zzq' has no id"):
        clip_merges.load(bad)
    stored = tmp_path / "vocab.json"
    stored.write_text("[]")
    with pytest.raises(UsageError, match="not a vocabulary"):
        clip_merges.load(merges, stored)
    stored.write_text("{")
    with pytest.raises(UsageError, match="cannot read the vocabulary"):
        clip_merges.load(merges, stored)
    bad.write_bytes(gzip.compress(merges.read_bytes())[:-20])
    with pytest.raises(UsageError, match="cannot read the merges"):
        clip_merges.load(bad)
