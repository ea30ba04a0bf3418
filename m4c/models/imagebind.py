"""``img_enc``, ``txt_enc``, ``aud_b_enc`` and ``imu_enc``: ImageBind-Huge's encoders, one graph each.

All four give vectors of one width that can be compared with each other: what belongs together points the same
way. Licence of the published weights: CC BY-NC-SA 4.0.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from m4c.models.clip_tokens import ClipTokens
from m4c.models.graph import Graph, GraphModule, Port, Repetition, Sample, Sizes, Submodel
from m4c.models.imagebind_encoder import ImageBindConfig, ImageBindEncoder
from m4c.models.imagebind_stems import AudioStem, ImageStem, ImuStem, TextStem
from m4c.skeleton import skeleton

NANO_EMBEDDING = 64
"""Width of all ``m4-nano`` embeddings, which the nano ``projection`` takes; 1024 in ``m4``."""

MERGES = "bpe_simple_vocab_16e6.txt.gz"
"""The list of CLIP's byte-pair merges, as published with ImageBind."""

PRESETS: Mapping[str, Mapping[str, ImageBindConfig]] = {
    "m4": {
        "img_enc": ImageBindConfig("vision", ImageStem(), 32, 1280, 16, norm_first=True),
        "txt_enc": ImageBindConfig("text", TextStem(ClipTokens(MERGES)), 24, 1024, 16, scale=1 / 0.07),
        "aud_b_enc": ImageBindConfig("audio", AudioStem(), 12, 768, 12, bias_kv=True, scale=20.0),
        "imu_enc": ImageBindConfig("imu", ImuStem(), 6, 512, 8, bias_kv=True, scale=5.0),
    },
    "m4-nano": {
        "img_enc": ImageBindConfig("vision", ImageStem(32, 8), 2, 64, 4, NANO_EMBEDDING, norm_first=True),
        "txt_enc": ImageBindConfig(
            "text", TextStem(ClipTokens(None, 258, 48)), 2, 64, 4, NANO_EMBEDDING, scale=1 / 0.07
        ),
        "aud_b_enc": ImageBindConfig(
            "audio", AudioStem(3, 32, 104), 2, 64, 4, NANO_EMBEDDING, bias_kv=True, scale=20.0
        ),
        "imu_enc": ImageBindConfig("imu", ImuStem(6, 128), 2, 64, 4, NANO_EMBEDDING, bias_kv=True, scale=5.0),
    },
}
"""Sizes of ImageBind-Huge as published, and the same encoders small."""

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of each colour channel in [0, 1] that ImageBind (as CLIP) subtracts."""

IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of each colour channel that ImageBind (as CLIP) divides by."""


class _Encode(GraphModule):
    """One input to one embedding a row."""

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch into (batch, embedding)."""
        embedding: Tensor = self.source(x)
        return embedding


def build(name: str, config: ImageBindConfig) -> Submodel:
    """Build one of the encoders: ``<name>/encoder`` from its input to ``embedding`` (batch, embedding)."""
    source = ImageBindEncoder(config).eval()
    return Submodel(
        name=name,
        source=source,
        graphs=(_graph(name, source, config),),
        licence="CC-BY-NC-SA-4.0 (Meta ImageBind)",
        assets=config.stem.words.assets if isinstance(config.stem, TextStem) else (),
        ignored=rf"^modality_\w+\.(?!{config.modality}\.).*",
    )


def _graph(name: str, source: ImageBindEncoder, config: ImageBindConfig) -> Graph:
    taken = _input(config)

    def shortened(blocks: int) -> Graph:
        fewer = replace(config, blocks=blocks)
        with skeleton():
            return _graph(name, ImageBindEncoder(fewer).eval(), fewer)

    return Graph(
        f"{name}/encoder",
        _Encode(source),
        (taken,),
        (_output(config),),
        _sampler(config, taken),
        repeats=Repetition(f"modality_trunks.{config.modality}.blocks", config.blocks, shortened),
    )


def _input(config: ImageBindConfig) -> Port:
    match config.stem:
        case ImageStem(size=size):
            return Port(
                "image",
                "float32",
                ("batch", 3, size, size),
                "RGB image, shorter side resized and centre cut, each channel normalised",
                host={"kind": "image", "size": size, "mean": [*IMAGE_MEAN], "std": [*IMAGE_STD]},
            )
        case TextStem(words=words):
            return words.port
        case AudioStem() as stem:
            return Port(
                "mel",
                "float32",
                ("batch", stem.clips, 1, stem.bins, stem.frames),
                f"log-mel spectrograms of {stem.clips} clips of 16 kHz sound, a frame each 10 ms, normalised",
                host=_filterbank(stem),
            )
        case ImuStem() as stem:
            return Port(
                "imu",
                "float32",
                ("batch", stem.channels, stem.samples),
                "acceleration (3 axes) and rotation rate (3 axes), as the sensor gives them",
                host={"kind": "imu", "channels": stem.channels, "samples": stem.samples},
            )


def _filterbank(stem: AudioStem) -> dict[str, object]:
    """Return how the host makes the log-mel clips: Kaldi's filterbank features.

    Each clip's mean is subtracted first; missing frames are 0 before the normalisation (x - mean) / std.
    """
    return {
        "kind": "fbank",
        "sample_rate": 16000,
        "clips": stem.clips,
        "clip_seconds": 2.0,
        "window_ms": 25,
        "step_ms": 10,
        "window": "hanning",
        "bins": stem.bins,
        "frames": stem.frames,
        "mean": -4.268,
        "std": 9.138,
    }


def _output(config: ImageBindConfig) -> Port:
    match config.stem:
        case ImageStem():
            length = "of length 1"
        case TextStem():
            length = "of the length of the learned scale, at most 100"
        case AudioStem(clips=clips):
            length = f"the mean over {clips} clips of vectors of length {config.scale:g}"
        case ImuStem():
            length = f"of length {config.scale:g}"
    return Port(
        "embedding", "float32", ("batch", config.embedding), f"what the input is about: a vector, {length}"
    )


def _sampler(config: ImageBindConfig, taken: Port) -> Sample:
    def sample(rng: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
        if isinstance(config.stem, TextStem):
            return {taken.name: config.stem.words.texts(rng, sizes["batch"])}
        return {taken.name: rng.standard_normal(taken.sized(sizes)).astype(np.float32)}

    return sample
