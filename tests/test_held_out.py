"""The figures of an integer artifact over several samples, and which of them is typical."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from m4c.errors import NumbersError
from m4c.held_out import typical
from m4c.source import OnnxSource


def net(folder: Path, factor: float, output: str = "y") -> Path:
    """Return a file that multiplies by ``factor``."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[1] x, float[1] e) => (float[1] {output})
        <float f = {{{factor}}}> {{ m = Mul(x, f) {output} = Add(m, e) }}"""
    path = folder / f"{output}{factor}.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def sample(x: float, e: float = 0.0) -> dict[str, np.ndarray]:
    return {"x": np.array([x], np.float32), "e": np.array([e], np.float32)}


def test_signal_and_noise_add_up_and_the_median_is_typical(tmp_path: Path) -> None:
    # off by half of x: 6 dB where x is all, and less than nothing where e takes it away
    samples = [sample(1, -0.99), sample(10), sample(2, 6), sample(3, 4)]
    source, artifact = OnnxSource(net(tmp_path, 1)), net(tmp_path, 1.5)
    chosen, found = typical(source, artifact, samples)
    assert chosen is samples[3]  # -34, 6, 18 and 13 dB
    signal = 0.01**2 + 10**2 + 8**2 + 7**2
    noise = 0.5**2 + 5**2 + 1 + 1.5**2
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-4)
    assert found.max_absolute == pytest.approx(5)


def test_one_sample_is_typical(tmp_path: Path) -> None:
    only = sample(2)
    chosen, found = typical(OnnxSource(net(tmp_path, 1)), net(tmp_path, 1.25), iter([only]))
    assert chosen is only
    assert found.sqnr_db == pytest.approx(20 * np.log10(4), abs=1e-4)


def test_a_missing_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NumbersError, match="does not return y"):
        typical(OnnxSource(net(tmp_path, 1)), net(tmp_path, 1, "other"), [sample(1)])
