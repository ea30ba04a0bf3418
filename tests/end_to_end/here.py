"""Exports through the command line in this process, where each graph is captured once: for tests of many options."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

import m4c.capture
import m4c.trace
from m4c import cli
from m4c.bundle import GraphRecord, read_manifest
from m4c.models.graph import Graph
from m4c.weights import Array


@dataclass(frozen=True)
class Done:
    """What an export left."""

    code: object
    err: str
    out: Path

    @property
    def graph(self) -> GraphRecord:
        """The only graph of the bundle."""
        (graph,) = read_manifest(self.out).graphs
        return graph

    @property
    def model(self) -> onnx.ModelProto:
        """The artifact, with its weights."""
        return onnx.load(self.out / self.graph.file.path)

    @property
    def stored(self) -> dict[str, Array]:
        """What the artifact stores."""
        return {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    @property
    def operators(self) -> dict[str, int]:
        """How often each operator is there."""
        return dict(self.graph.operators)


Export = Callable[..., Done]


@cache
def captured() -> dict[str, ir.Model]:
    """Return the graphs that were captured before, by name and sizes; capturing them takes longest."""
    return {}


@cache
def translated() -> dict[str, torch.onnx.ONNXProgram]:
    """Return the programs that were traced before, likewise."""
    return {}


def share_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every export of a graph begin with the same capture, without weights, and be traced by the same program."""
    capture, translate = m4c.capture.capture, m4c.capture.translate

    def captured_once(graph: Graph, dynamic: frozenset[str] = frozenset()) -> ir.Model:
        key = _key(graph, dynamic)
        if key not in captured():
            captured()[key] = capture(graph, dynamic)
        return captured()[key].clone()

    def translated_once(graph: Graph, dynamic: frozenset[str] = frozenset()) -> torch.onnx.ONNXProgram:
        key = _key(graph, dynamic)
        if key not in translated():
            translated()[key] = translate(graph, dynamic)
        return translated()[key]

    monkeypatch.setattr(m4c.capture, "capture", captured_once)
    monkeypatch.setattr(m4c.trace, "translate", translated_once)


def _key(graph: Graph, dynamic: frozenset[str]) -> str:
    """Return what is the same for two graphs that are captured alike."""
    sizes = [(name, list(held.shape)) for name, held in graph.module.state_dict().items()]
    rows = [(name, list(held.shape)) for name, held in graph.module.named_buffers()]
    return str((graph.name, sizes, rows, sorted(graph.sizes.items()), sorted(graph.dynamic | dynamic)))


@pytest.fixture(autouse=True)
def capture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share captures in a test."""
    share_captures(monkeypatch)


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Return a function that exports with options, in this process."""

    def run(*options: object, name: str = "bundle", graph: str = "backbone/decoder") -> Done:
        out = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["m4c", "export", graph, "-o", str(out), *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(ended.value.code, capsys.readouterr().err, out)

    return run
