"""How closely the integer artifacts of a bundle follow eager torch on inputs that they were not calibrated on.

    m4c export --random-weights 0 --target edgetpu --calibration random -o BUNDLE
    python -m tests.benchmarks.integers BUNDLE [--seeds 100 101 …]

For a bundle of random weights (seed 0) that was calibrated on random numbers (seeds 1 to 32). Prints the median and the worst
SQNR in dB of each graph in LiteRT.
"""

import argparse
from pathlib import Path

import numpy as np

from m4c.assemble import open_sources
from m4c.bundle import GraphRecord, read_manifest
from m4c.numerics import sqnr
from m4c.request import Request
from m4c.runners import open_runner
from m4c.targets.profile import load_target

SEEDS = tuple(range(100, 116))


def main() -> None:
    """Measure each graph of the bundle that is in integers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    for graph in read_manifest(arguments.bundle).graphs:
        if graph.precision == "int8":
            found = measured(graph, arguments.bundle, arguments.seeds)
            print(f"{graph.name:24} median {np.median(found):5.1f}  worst {min(found):5.1f}", flush=True)


def measured(graph: GraphRecord, bundle: Path, seeds: list[int]) -> list[float]:
    """Return the SQNR of the worst output for each seed."""
    request = Request(load_target("edgetpu"), submodels=(graph.name,))
    _, _, sources = open_sources(request, graph.name.partition("/")[0])
    source = sources[0].sized(graph.sizes)
    runner = open_runner(bundle / graph.file.path)
    found = []
    for seed in seeds:
        inputs = source.sample(seed)
        expected, actual = source.run(inputs), runner.run(inputs)
        found.append(min(sqnr(expected[name], actual[name]) for name in expected))
    return found


if __name__ == "__main__":
    main()
