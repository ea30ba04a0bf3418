"""Measure what one base with several adapters takes in memory, and what as many merged copies take.

    python -m tests.benchmarks.adapter_memory BASE MERGED MERGED MERGED

BASE is a bundle with adapters beside its artifacts, each MERGED one of the same sub-models with one of them merged. Either side
is loaded whole by a process of its own, and runs every graph once on its test vector, the base with each adapter. Printed are
the bytes of the files, and by how much the process grew: its own pages, and with the pages of files that it mapped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.numpy import load_file

from m4c.adapters.contract import adapter_files
from m4c.bundle import Manifest, read_manifest
from m4c.memory_limit import resident
from m4c.runners import OnnxRunner, TfliteRunner
from tests.benchmarks.measure import anonymous_bytes


def load(folder: Path) -> list[OnnxRunner | TfliteRunner]:
    """Open all graphs of a bundle and run each once, without an adapter and with every one."""
    manifest = read_manifest(folder)
    made: list[OnnxRunner | TfliteRunner] = []
    for graph in manifest.graphs:
        path = folder / graph.file.path
        runner = TfliteRunner(path) if path.suffix == ".tflite" else OnnxRunner(path)
        vector = load_file(folder / graph.vector.path)
        inputs = {port.name: vector[f"inputs.{port.name}"] for port in graph.inputs}
        runner.run(inputs)
        for name in _adapters(manifest, graph.name.partition("/")[0]):
            file = adapter_files(folder, manifest, [graph.name], name) if graph.slots else {}
            for path in file.values():
                runner.use(path)
                runner.run(inputs)
        made.append(runner)
    return made


def _adapters(manifest: Manifest, submodel: str) -> list[str]:
    return [one.name for one in manifest.submodel(submodel).adapters]


def taken(folders: list[str]) -> dict[str, int]:
    """Return by how many bytes this process grows when it loads all of these bundles."""
    process = os.getpid()
    before = {"own": anonymous_bytes(process), "resident": resident(process)}
    held = [load(Path(folder)) for folder in folders]
    after = {"own": anonymous_bytes(process), "resident": resident(process)}
    assert all(held)
    return {name: after[name] - before[name] for name in before}


def files(folders: list[str]) -> int:
    """Return the bytes of graphs and adapters of these bundles."""
    rooms = [Path(folder) / room for folder in folders for room in ("graphs", "adapters")]
    return sum(
        path.stat().st_size for room in rooms if room.is_dir() for path in room.rglob("*") if path.is_file()
    )


def main(base: str, merged: list[str]) -> None:
    """Measure both sides, and print a row of each."""
    count = len(merged)
    sides = {f"1 base, {count} adapters": [base], f"{count} merged copies": merged}
    print("| | files | own memory | with mapped files |\n|---|---:|---:|---:|")
    for name, folders in sides.items():
        command = [sys.executable, "-m", "tests.benchmarks.adapter_memory", "--in-a-process", *folders]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figures = (files(folders), found["own"], found["resident"])
        print(f"| {name} | " + " | ".join(f"{value / 1e6:.1f} MB" for value in figures) + " |")


if __name__ == "__main__":
    if sys.argv[1] == "--in-a-process":
        print(json.dumps(taken(sys.argv[2:])))
    else:
        main(sys.argv[1], sys.argv[2:])
