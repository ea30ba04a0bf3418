"""CLIP's tokenizer from the files it is published in: the one list of merges, or ``merges.txt`` with ``vocab.json``.

The ids follow from the merges alone: 256 byte signs, the same at the end of a word, one for each merge, start and end.
"""

import gzip
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from m4c.errors import UsageError
from m4c.host.text import ClipTokenizer
from m4c.json_file import read_json

MERGES = 48894
"""How many lines of the published list CLIP uses: 49,408 ids less 512 byte signs, start and end."""

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word, from ``simple_tokenizer.py`` of the published code."""


def load(merges: Path, vocabulary: Path | None = None, *, context: int = 77, pad: int = 0) -> ClipTokenizer:
    """Return the tokenizer of a merges file, plain or gzipped; with ``vocabulary`` the ids are those of the JSON file.

    Raises:
        UsageError: if a file is missing or does not hold what it should.
    """
    pairs = _pairs(merges)
    ids = _derived(pairs) if vocabulary is None else _stored(vocabulary)
    lost = [a + b for a, b in pairs if not {a, b, a + b} <= ids.keys()]
    if lost or not {START, END} <= ids.keys():
        raise UsageError(
            f"the merges do not fit the vocabulary: {(lost or [START, END])[0]!r} has no id",
            where=str(vocabulary or merges),
            fix="give merges.txt and vocab.json of one tokenizer",
        )
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs, end_of_word_suffix=WORD_END, unk_token=END))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytewise])
    tokenizer.add_special_tokens([START, END])
    return ClipTokenizer(tokenizer, ids[START], ids[END], context, pad)


def byte_signs() -> list[str]:
    """Return the 256 printable signs that stand for the bytes, in the order of their ids (GPT-2's and CLIP's)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]


def _pairs(path: Path) -> list[tuple[str, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the merges: {error}",
            where=str(path),
            fix="give bpe_simple_vocab_16e6.txt.gz or merges.txt",
        ) from error
    lines = text.split("\n")
    lines = [line for line in lines[1 if "#version" in lines[0] else 0 :] if line][:MERGES]
    pairs = [tuple(line.split(" ")) for line in lines]
    wrong = next((line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2), None)
    if wrong is not None or not pairs:
        raise UsageError(
            f"not a list of merges: {'it is empty' if wrong is None else repr(wrong)}",
            where=str(path),
            fix="give bpe_simple_vocab_16e6.txt.gz or merges.txt",
        )
    return [(pair[0], pair[1]) for pair in pairs]


def _derived(pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    signs = byte_signs()
    tokens = [*signs, *(sign + WORD_END for sign in signs), *(a + b for a, b in pairs), START, END]
    return {token: place for place, token in enumerate(tokens)}


def _stored(path: Path) -> dict[str, int]:
    try:
        ids = read_json(path)
    except ValueError as error:
        raise UsageError(
            f"cannot read the vocabulary: {error}",
            where=str(path),
            fix="give the vocab.json beside merges.txt",
        ) from error
    if not isinstance(ids, dict) or not all(isinstance(place, int) for place in ids.values()):
        raise UsageError("not a vocabulary", where=str(path), fix="give the vocab.json beside merges.txt")
    return ids
