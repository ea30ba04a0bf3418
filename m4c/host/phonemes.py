"""The symbols that a text-to-speech decoder speaks, from a list or from a dictionary file of fairseq."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m4c.errors import UsageError

Array = np.ndarray

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The ids 0 to 3 of every fairseq dictionary; the file does not list them."""


@dataclass(frozen=True, slots=True)
class PhonemeTokenizer:
    """Ids of symbols: the place of each in the whole list, special symbols included.

    ``end`` is put after every utterance; ``pad`` fills it up to ``length`` symbols, where there is a length.
    """

    symbols: tuple[str, ...]
    end: int | None = None
    pad: int = 1
    length: int | None = None

    def __post_init__(self) -> None:
        """Refuse a list with a symbol twice, or an id outside of it."""
        twice = sorted({s for s in self.symbols if self.symbols.count(s) > 1})
        if twice:
            raise UsageError(f"symbols occur twice: {' '.join(twice)}", fix="list every symbol once")
        used = [i for i in (self.end, self.pad if self.length else None) if i is not None]
        outside = [i for i in used if i >= len(self.symbols)]
        if outside:
            raise UsageError(
                f"id {outside[0]} is not one of {len(self.symbols)} symbols",
                fix="give the model's own symbols",
            )

    def encode(self, phonemes: str) -> Array:
        """Return the ids (1, symbols) of symbols with spaces between them, such as ``HH AH0 L OW1``, int64.

        Raises:
            UsageError: if a symbol is unknown, there is none, or there are more than the length holds.
        """
        ids = {symbol: place for place, symbol in enumerate(self.symbols)}
        given = phonemes.split()
        unknown = sorted(set(given) - set(ids))
        if unknown or not given:
            what = f"unknown symbols: {' '.join(unknown)}" if unknown else "no symbols to speak"
            known = " ".join([s for s in self.symbols if s not in SPECIAL][:12])
            raise UsageError(what, where=phonemes, fix=f"use the symbols of the model, such as: {known}")
        row = [ids[symbol] for symbol in given] + ([] if self.end is None else [self.end])
        if self.length is not None:
            if len(row) > self.length:
                raise UsageError(
                    f"the utterance has {len(row)} symbols with its end, the model takes {self.length}",
                    where=phonemes,
                    fix="speak it in pieces",
                )
            row += [self.pad] * (self.length - len(row))
        return np.array([row], np.int64)


def letters(text: str, gap: str) -> str:
    """Return ``text`` as the symbols of a model that reads letters: in lower case, ``gap`` between two words."""
    return f" {gap} ".join(" ".join(word) for word in text.lower().split())


def read_dictionary(path: Path) -> tuple[str, ...]:
    """Return the symbols of a fairseq dictionary, special ones first: each line is a symbol and its count.

    Raises:
        UsageError: if the file is unreadable or empty.
    """
    fix = "give the dictionary of the checkpoint, one symbol and its count a line"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the symbols: {error}", where=str(path), fix=fix) from error
    symbols = _first_words(lines)
    if not symbols:
        raise UsageError("the dictionary holds no symbols", where=str(path), fix=fix)
    return (*SPECIAL, *symbols)


def _first_words(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line.split()[0] for line in lines if line.strip())
