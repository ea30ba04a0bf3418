"""Graphs of a sub-model in float, while it is compiled: what makes the calibration samples of those that follow them.

Each is captured once, for its artifact and for this, and run by ONNX Runtime with its weights left in their file.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import onnx_ir as ir

from m4c.passes import canonical
from m4c.runners import Runner, open_runner
from m4c.source import Source
from m4c.targets.emit_onnx import to_onnx
from m4c.weight_file import WeightFile


class FloatGraphs:
    """Captured graphs, and runners of them; a context manager, after which its files are gone.

    Nothing is kept of a graph that no route leads through.
    """

    def __init__(self) -> None:
        """Start without graphs."""
        self._stack = ExitStack()
        self._models: dict[tuple[object, ...], ir.Model] = {}
        self._runners: dict[tuple[object, ...], Runner] = {}
        self._weights: WeightFile | None = None

    def __enter__(self) -> "FloatGraphs":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the files."""
        self._runners.clear()
        self._stack.close()

    def capture(self, source: Source) -> ir.Model:
        """Return the model of ``source`` before any pass; whoever changes it takes a copy."""
        route, key = source.route, _key(source)
        if route is None or source.name not in route.graphs:
            return source.capture()
        if key not in self._models:
            self._models[key] = source.capture()
        return self._models[key]

    def open(self, source: Source) -> Runner:
        """Return a runner of ``source`` in float32."""
        key = _key(source)
        if key not in self._runners:
            if self._weights is None:
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="m4c-")))
                self._weights = self._stack.enter_context(WeightFile(folder / "weights.bin"))
            path = self._weights.path.with_name(f"{len(self._runners)}.onnx")
            model, _ = canonical().run(self.capture(source))
            to_onnx(model, path, self._weights)
            self._runners[key] = open_runner(path, mapped=True)
        return self._runners[key]


def _key(source: Source) -> tuple[object, ...]:
    """Return what tells the form of ``source`` from other sizes of the same graph."""
    return (source.name, *sorted(source.sizes.items()))
