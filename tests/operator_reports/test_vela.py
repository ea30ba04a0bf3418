"""Evidence from Vela: what it left to the CPU is counted in the file that it wrote.

``data/two_vela.tflite`` is what Vela 5.2.0 made of ``data/two.tflite`` for ethos-u55-256; where Vela is installed it is asked
anew.
"""

import shutil
from pathlib import Path

import pytest

from m4c.errors import UsageError
from m4c.operator_reports.judged import judged
from m4c.operator_reports.placement import Placement, place
from m4c.operator_reports.vela import as_compiled, compiled
from m4c.progress import Silent
from m4c.targets.profile import load_target
from m4c.targets.read_tflite import read_tflite

DATA = Path(__file__).parent / "data"
SAID = """Warning: No memory mode specified. Using a default of Shared_Sram. Compilation may be invalid or non-optimal.

Warning (supported operators) operator: L2_NORMALIZATION, ofm: 'n'
Reason: Unsupported opType

Network summary for two
CPU operators = 1 (20.0%)
NPU operators = 4 (80.0%)
"""
"""What it printed."""


def check(found: Placement) -> None:
    """Hold a placement of two.tflite against what is in two_vela.tflite, seen by eye."""
    assert (found.evidence, found.outcome) == ("compiled", "split")
    left = [node.operator for node in found.graph.nodes if node.index not in found.cut.nodes]
    assert left == ["L2_NORMALIZATION"]
    assert [len(p.nodes) for p in found.cut.delegated] == [2, 2]
    first = found.first_break
    assert first is not None
    assert first.reasons[0].text == "L2_NORMALIZATION: Unsupported opType"
    assert "rewrite it" in first.reasons[0].fix


def test_what_vela_wrote_is_what_is_reported() -> None:
    (graph,), (made,) = read_tflite(DATA / "two.tflite"), read_tflite(DATA / "two_vela.tflite")
    assert [node.operator for node in made.nodes] == ["ethos-u", "L2_NORMALIZATION", "ethos-u"]
    found = as_compiled(graph, made, SAID, load_target("ethos-u55"))
    check(found)
    without = as_compiled(graph, made, "", load_target("ethos-u55"))
    assert without.first_break is not None
    assert "without a reason" in without.first_break.reasons[0].text


def test_the_table_foretells_it() -> None:
    (graph,), (made,) = read_tflite(DATA / "two.tflite"), read_tflite(DATA / "two_vela.tflite")
    table = place(graph, load_target("ethos-u55"))
    found = as_compiled(graph, made, SAID, load_target("ethos-u55"))
    assert table.evidence == "table"
    assert table.cut.nodes == found.cut.nodes
    assert len(table.cut.delegated) == len(found.cut.delegated)


@pytest.mark.skipif(shutil.which("vela") is None, reason="Vela is an optional program")
def test_vela_itself() -> None:
    (found,) = compiled(DATA / "two.tflite", load_target("ethos-u55"))
    check(found)


def test_without_vela_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    target = load_target("ethos-u55")
    with pytest.raises(UsageError, match=r"vela is not installed\n  fix: pip install 'm4c\[compilers\]'"):
        judged(str(DATA / "two.tflite"), target, Silent(), evidence="compiled")


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(UsageError, match="no compiler to ask for edgetpu\n  fix: leave out --evidence"):
        compiled(DATA / "two.tflite", load_target("edgetpu"))
    with pytest.raises(UsageError, match="Vela has compiled this file already"):
        compiled(DATA / "two_vela.tflite", load_target("ethos-u55"))
    with pytest.raises(
        UsageError, match="a compiler takes files, and imu_enc is none\n  fix: m4c export imu_enc"
    ):
        judged("imu_enc", load_target("ethos-u55"), Silent(), evidence="compiled")


def test_a_failure_of_vela_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "vela"
    program.write_text("#!/bin/sh\necho 'Error: out of SRAM' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError, match="Vela does not take the file: Error: out of SRAM") as caught:
        compiled(DATA / "two.tflite", load_target("ethos-u55"))
    assert caught.value.fix
    trace = (
        'Traceback\\n  File "vela.py"\\nRuntimeError: Compilation failed: ADD\\n - shapes\\nFailed to parse'
    )
    program.write_text(f"#!/bin/sh\nprintf '{trace}\\n' >&2\nexit 1\n")
    with pytest.raises(
        UsageError, match="file: RuntimeError: Compilation failed: ADD - shapes Failed to parse"
    ):
        compiled(DATA / "two.tflite", load_target("ethos-u55"))
