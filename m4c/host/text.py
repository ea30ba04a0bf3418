"""Tokenizers: from text to the ids that a graph takes, int64, one row."""

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from m4c.errors import UsageError

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """The tokenizer of the nano presets, which needs no file: the ids are the UTF-8 bytes of the text.

    As with CLIP's ids, ``end`` is the largest one, so that the position of the largest id is the end of the text.
    """

    context: int = 77
    start: int = 256
    end: int = 257
    pad: int = 0

    def encode(self, text: str) -> Array:
        """Return the ids (1, context): start, bytes, end, padding. Longer text is cut, the end is kept."""
        return _row([self.start, *text.encode(), self.end], self.context, self.pad)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text up to the first end, without start and padding; bytes that are no UTF-8 become U+FFFD."""
        kept = list(ids)
        kept = kept[: kept.index(self.end)] if self.end in kept else kept
        return bytes(i for i in kept if i < 256 and i != self.pad).decode(errors="replace")


class ClipTokenizer:
    """CLIP's byte-pair encoding, from its list of merges: lower case, one space for white space, composed Unicode."""

    def __init__(self, tokenizer: Tokenizer, start: int, end: int, context: int = 77, pad: int = 0) -> None:
        """Keep a tokenizer that splits and merges; ``m4c.host.clip_merges`` builds it.

        ImageBind pads with 0, Stable Diffusion with ``end``.
        """
        self.tokenizer, self.start, self.end, self.context, self.pad = tokenizer, start, end, context, pad

    def encode(self, text: str) -> Array:
        """Return the ids (1, context): start, tokens, end, padding. Longer text is cut, the end is kept."""
        clean = html.unescape(html.unescape(unicodedata.normalize("NFC", text))).strip()
        ids = self.tokenizer.encode(clean, add_special_tokens=False).ids
        return _row([self.start, *ids, self.end], self.context, self.pad)


class JsonTokenizer:
    """The ``tokenizer.json`` that comes with a checkpoint."""

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            UsageError: if it is missing or not a tokenizer.
        """
        if not path.is_file():
            raise UsageError(
                "the tokenizer is missing",
                where=str(path),
                fix="put the tokenizer.json of the checkpoint beside its weights",
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises bare Exception
            raise UsageError(
                f"not a tokenizer: {error}",
                where=str(path),
                fix="put the tokenizer.json of the checkpoint beside its weights",
            ) from error

    def encode(self, text: str) -> Array:
        """Return the ids (1, tokens) of ``text`` alone: no start, end or padding."""
        return np.array([self.tokenizer.encode(text, add_special_tokens=False).ids], np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, without special tokens."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))


def _row(ids: Sequence[int], context: int, pad: int) -> Array:
    """Return ids as one row of ``context``; the last id survives the cut."""
    if len(ids) > context:
        ids = [*ids[: context - 1], ids[-1]]
    row = np.full((1, context), pad, np.int64)
    row[0, : len(ids)] = ids
    return row
