"""Latency in LiteRT of an encoder by m4c and by litert-torch with ai-edge-quantizer, in turns in one process.

    python -m tests.benchmarks.oracle_latency FOLDER [--rounds 15] [--only int8]

With the interpreter of an environment that has the extra `oracle`. The encoder is ImageBind's with the sizes of ViT-B: 12
blocks, 768 wide, 12 heads, 197 tokens. Files are written into FOLDER once and found there again. Prints medians of two
threads.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from m4c.checkpoints.random import random_weights
from m4c.match import match
from m4c.models.imagebind import build
from m4c.models.imagebind_encoder import ImageBindConfig
from m4c.models.imagebind_stems import ImageStem
from m4c.numerics import sqnr
from m4c.scheme import Scheme
from m4c.source import TorchSource
from tests.benchmarks import peer

FORMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "float32": ("float32", {}, ""),
    "int8": ("int8", {}, "static_wi8_ai8"),
    "int8 weights": ("int8-weights", {}, "dynamic_wi8_afp32"),
    "int4 weights, groups of 32": ("int4", {"scheme": Scheme(4, 32)}, "dynamic_wi4b32_afp32"),
}
"""Precision and options of ours, recipe of theirs."""


def vit_b() -> TorchSource:
    """Return the encoder with random weights."""
    submodel = build("img_enc", ImageBindConfig("vision", ImageStem(224, 16), 12, 768, 12, norm_first=True))
    weights = match(submodel, random_weights(submodel.source, 0))
    peer.filled(submodel.source, weights)
    return TorchSource(submodel.graphs[0], weights)


def files(source: TorchSource, form: str, folder: Path) -> tuple[Path, Path]:
    """Return the files of ours and of theirs, written unless they are there."""
    precision, options, recipe = FORMS[form]
    stem = form.replace(" ", "-").replace(",", "")
    own, other, plain = (
        folder / f"ours-{stem}.tflite",
        folder / f"theirs-{stem}.tflite",
        folder / "theirs-float32.tflite",
    )
    samples = [source.sample(seed) for seed in (1, 2)]
    if not own.exists():
        peer.ours(source, samples, own, precision, **options)
    if not plain.exists():
        peer.theirs(source, samples[0], plain)
    if not other.exists():
        peer.rounded(plain, recipe, samples, source.graph, other)
    return own, other


def in_turns(runners: list[peer.Runner], sample: peer.Sample, rounds: int) -> list[float]:
    """Return the median of each in milliseconds; who comes first changes from round to round."""
    times: list[list[float]] = [[] for _ in runners]
    for turn in range(rounds + 1):
        for index in sorted(range(len(runners)), reverse=bool(turn % 2)):
            start = time.perf_counter()
            runners[index](sample)
            times[index].append(time.perf_counter() - start)
    return [1e3 * float(np.median(found[1:])) for found in times]


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=FORMS, action="append")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    source = vit_b()
    sample = source.sample(101)
    (wanted,) = peer.eager(source, sample)
    built = {form: files(source, form, args.folder) for form in args.only or FORMS}
    for form, paths in built.items():
        runners = [peer.Runner(path, source.graph) for path in paths]
        lost = [float(sqnr(wanted, runner(sample)[0])) for runner in runners]
        own, other = in_turns(runners, sample, args.rounds)
        print(
            f"| {form} | {own:.1f} ms | {other:.1f} ms | {own / other:.2f} | {lost[0]:.1f} dB | {lost[1]:.1f} dB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
