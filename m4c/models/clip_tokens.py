"""CLIP's byte-pair tokens, which both ImageBind's and Stable Diffusion's text towers read."""

from dataclasses import dataclass

import numpy as np

from m4c.models.graph import Port


@dataclass(frozen=True, slots=True)
class ClipTokens:
    """Sizes of the vocabulary and of a text; the two largest ids start and end every text.

    ``pad`` fills a text after its end: 0 in ImageBind, the end token itself (None) in Stable Diffusion. ``merges`` is
    the file of CLIP's merges that comes with the weights; without one (None) the tokens are bytes.
    """

    merges: str | None
    vocabulary: int = 49408
    context: int = 77
    pad: int | None = 0

    @property
    def start(self) -> int:
        """Id of the token that starts every text."""
        return self.vocabulary - 2

    @property
    def end(self) -> int:
        """Id of the token that ends every text, the largest of all."""
        return self.vocabulary - 1

    @property
    def filler(self) -> int:
        """Id that follows the end token to the end of the context."""
        return self.end if self.pad is None else self.pad

    @property
    def port(self) -> Port:
        """The input ``tokens`` (batch, context) int64."""
        rest = "zeros" if self.filler == 0 else "the end token again"
        shape = ("batch", self.context)
        return Port(
            "tokens", "int64", shape, f"token ids: start, the text's, end, then {rest}", host=self._host()
        )

    def _host(self) -> dict[str, object]:
        ids = {"context": self.context, "start": self.start, "end": self.end, "pad": self.filler}
        return (
            {"kind": "bytes", **ids}
            if self.merges is None
            else {"kind": "clip-bpe", "asset": self.merges, **ids}
        )

    @property
    def assets(self) -> tuple[str, ...]:
        """Files beside the weights that the host needs to make tokens."""
        return () if self.merges is None else (self.merges,)

    def texts(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Return ids (batch, context) int64 of random texts of at least one word each."""
        tokens = np.full((batch, self.context), self.filler, np.int64)
        for row in tokens:
            words = int(rng.integers(1, self.context - 1))
            row[0] = self.start
            row[1 : words + 1] = rng.integers(1, self.start, words)
            row[words + 1] = self.end
        return tokens
