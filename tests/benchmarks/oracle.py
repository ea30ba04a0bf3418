"""SQNR of int8 by m4c and by litert-torch with ai-edge-quantizer, of the same module on samples that neither has seen.

    python -m tests.benchmarks.oracle [GRAPH …]    # with the interpreter of an environment that has the extra `oracle`

Both are calibrated on the same 16 samples. Prints the median over 8 others, against eager torch, and the least.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from m4c.numerics import sqnr
from m4c.source import TorchSource
from tests.benchmarks import peer
from tests.benchmarks.peer import Array, Sample

GRAPHS = (
    "img_enc/encoder",
    "txt_enc/encoder",
    "aud_b_enc/encoder",
    "aud_i_enc/encoder",
    "imu_enc/encoder",
    "img_dec/unet",
    "img_dec/vae_decoder",
    "img_dec/vae_encoder",
)
CALIBRATED, UNSEEN = range(1, 17), range(101, 109)


def losses(source: TorchSource, run: Callable[[Sample], list[Array]]) -> list[float]:
    """Return the SQNR in dB of the worst output on each unseen sample."""
    found = []
    for seed in UNSEEN:
        sample = source.sample(seed)
        pairs = zip(peer.eager(source, sample), run(sample), strict=True)
        found.append(min(float(sqnr(wanted, made)) for wanted, made in pairs))
    return found


def compare(name: str, folder: Path) -> tuple[list[float], list[float]]:
    """Return the losses of ours and of theirs."""
    source = peer.source_of(name)
    samples = [source.sample(seed) for seed in CALIBRATED]
    own = peer.ours(source, samples, folder / "ours.tflite")
    plain = peer.theirs(source, samples[0], folder / "float.tflite")
    other = peer.rounded(plain, "static_wi8_ai8", samples, source.graph, folder / "theirs.tflite")
    return losses(source, peer.Runner(own, source.graph)), losses(source, peer.Runner(other, source.graph))


def main() -> None:
    """Compare and print."""
    for name in sys.argv[1:] or GRAPHS:
        with tempfile.TemporaryDirectory() as folder:
            own, other = compare(name, Path(folder))
        print(
            f"| {name} | {np.median(own):.1f} dB ({min(own):.1f}) | {np.median(other):.1f} dB ({min(other):.1f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
