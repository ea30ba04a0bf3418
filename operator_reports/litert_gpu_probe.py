"""Run by LiteRT's Python: load TFLite files by the GPU accelerator alone, one process for all, and say when each begins.

Arguments: the files. What the delegate says is on stderr; on stdout is one JSON object a file, ``{"error": null}`` if the GPU
took all of it, else with the text of the error. A file that ends the process has none.
"""

import json
import sys

from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator

BEGINS = "m4c asks of file "
"""What is written to stderr before each file, so that what follows is known to be about it."""


def error_of(path: str) -> str | None:
    """Return what loading the file ended with, None if the GPU takes all of it."""
    try:
        CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.GPU)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return None


def main() -> None:
    """Load every file that is given."""
    for index, path in enumerate(sys.argv[1:]):
        sys.stderr.write(f"\n{BEGINS}{index}\n")
        sys.stderr.flush()
        sys.stdout.write(json.dumps({"error": error_of(path)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
