"""Every graph of bundles on LiteRT's GPU delegate: what it takes, and how far its outputs are from the source's.

    m4c export --target gpu -o bundle
    M4C_GPU_DRIVER=FOLDER python -m tests.benchmarks.gpu bundle

A file is loaded for the GPU alone and run on its test vector. Over a driver that computes on the CPU (SwiftShader), which
has no float16, the delegate computes in float32.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from m4c.bundle import GraphRecord, read_manifest
from m4c.numerics import difference, worst
from m4c.operator_reports.litert_gpu import environment
from m4c.runners import host_file, open_runner

Array = np.ndarray


def part(held: Mapping[str, Array], side: str) -> dict[str, Array]:
    """Return the inputs or the outputs of a test vector, by their names."""
    return {name.removeprefix(side): value for name, value in held.items() if name.startswith(side)}


def run(
    path: Path, inputs: Mapping[str, Array], wanted: Mapping[str, Array]
) -> tuple[dict[str, Array], float]:
    """Return what the GPU computes of ``inputs``, and the seconds that loading took."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    start = time.perf_counter()
    model = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.GPU)
    seconds = time.perf_counter() - start
    ((key, ports),) = model.get_signature_list().items()
    read = {name: model.create_input_buffer_by_name(key, name) for name in ports["inputs"]}
    made = {name: model.create_output_buffer_by_name(key, name) for name in ports["outputs"]}
    for name, buffer in read.items():
        value = inputs[name]
        buffer.write(value.astype(np.int32) if value.dtype == np.int64 else value)
    model.run_by_name(key, read, made)
    found = {}
    for name, value in wanted.items():
        kind = np.int32 if value.dtype == np.int64 else value.dtype.type
        found[name] = made[name].read(value.size, kind).reshape(value.shape)
    return found, seconds


def row(folder: Path, record: GraphRecord) -> str:
    """Return the row of a graph."""
    path = folder / record.file.path
    held = load_file(folder / record.vector.path)
    inputs, wanted = part(held, "inputs."), part(held, "outputs.")
    if host_file(path).is_file():
        before = open_runner(host_file(path))
        inputs |= before.run({name: inputs[name] for name in before.inputs})  # type: ignore[attr-defined]
    made, seconds = run(path, inputs, wanted)
    found = worst([difference(value, made[name].astype(value.dtype)) for name, value in wanted.items()])
    count = sum(record.operators.values())
    cells = (record.name, count, f"{found.max_relative:.1e}", f"{found.sqnr_db:.1f}", f"{seconds:.1f}")
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print a row a graph; each has a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--graph", help="one alone, in this process")
    arguments = parser.parse_args()
    records = {record.name: record for record in read_manifest(arguments.bundle).graphs}
    if arguments.graph:
        sys.stdout.write(row(arguments.bundle, records[arguments.graph]) + "\n")
        return
    sys.stdout.write(
        "| graph | operators, all on the GPU | largest error | SQNR, dB | loading, s |\n|---|---:|---:|---:|---:|\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        given = environment(Path(folder))
        for name in records:
            command = [sys.executable, "-m", "tests.benchmarks.gpu", str(arguments.bundle), "--graph", name]
            done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
            rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
            sys.stdout.write((rows or [f"| {name} | {' '.join(done.stderr.split()[-20:])} |"])[0] + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
