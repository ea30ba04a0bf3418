"""Sizes of ``tts_dec`` and its presets."""

from collections.abc import Mapping
from dataclasses import dataclass

from m4c.errors import UsageError

BEGIN, PAD, END, UNKNOWN = 0, 1, 2, 3
"""The symbols that every fairseq dictionary starts with."""


@dataclass(frozen=True, slots=True)
class TtsSizes:
    """Sizes of one text-to-speech transformer. Defaults: fairseq's LJSpeech recipe, with 75 phoneme symbols."""

    symbols: int = 75
    width: int = 512
    layers: int = 6
    """Of the encoder, and of the decoder."""
    heads: int = 4
    ffn: int = 2048
    kernel: int = 5
    prenet_convolutions: int = 3
    prenet: int = 256
    prenet_layers: int = 2
    postnet: int = 512
    postnet_layers: int = 5
    bins: int = 80
    frames_per_step: int = 4
    max_steps: int = 1200
    length: int = 128
    """Phonemes of a call: the most it can take, and how many it takes where that is static."""
    steps: int = 256
    """Steps that the postnet takes at once where that is static; 256 · 4 frames are 11.9 s."""
    gap: str | None = None
    """The symbol between two words where symbols are letters; None where they are phonemes."""
    mel_mean: float = 0.0
    mel_std: float = 1.0
    """What turns logarithms of mel magnitudes into the model's frames: (x - mean) / std. Published models bring theirs."""

    def __post_init__(self) -> None:
        """Refuse sizes that the modules cannot express."""
        if self.width % self.heads or self.width % 2 or self.kernel % 2 == 0:
            raise UsageError(
                f"width {self.width}, heads {self.heads}, kernel {self.kernel} do not fit together",
                fix="width must be even and a multiple of heads, kernel odd",
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def features(self) -> int:
        """Values of one decoder step: ``frames_per_step`` frames of ``bins``."""
        return self.bins * self.frames_per_step


PRESETS: Mapping[str, Mapping[str, TtsSizes]] = {
    "m4": {"tts_dec": TtsSizes()},
    "m4-nano": {
        "tts_dec": TtsSizes(
            symbols=32, width=64, layers=2, ffn=128, prenet_convolutions=2, prenet=32, postnet=64,
            postnet_layers=3, max_steps=128, length=32, steps=48, gap="|", mel_mean=-6.0, mel_std=3.0,
        )
    },
}  # fmt: skip
