"""Artifacts with rounded weights run a piece at a time, and wrong kernels are found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter
from ai_edge_litert.interpreter import OpResolverType

from m4c import float_products
from m4c.errors import NumbersError
from m4c.float_products import run_in_float
from m4c.read_back import read_back
from m4c.runners import TfliteRunner
from m4c.weights import array
from tests.targets.emit_tflite.graphs import drawn
from tests.targets.emit_tflite.test_rounded import SCHEMES, product, written


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_products_are_float_and_told_by_their_names(scheme: object, tmp_path: Path) -> None:
    model, _ = product(scheme)  # type: ignore[arg-type]
    path = written(model, tmp_path)
    x, heard = drawn(1, 3, 256), dict[str, np.ndarray]()
    ran = run_in_float(path, {"x": x}, heard.__setitem__)
    ((name, made),) = ran.outputs.items()
    wanted = x @ array(read_back(path)["w"]).T + drawn(40)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5)
    assert heard.keys() == {name}
    assert ran.steps is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.tflite"]


def test_a_kernel_that_computes_something_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteRT's reference kernel does not know groups and returns zeros."""
    path = written(product(SCHEMES["int4/32"])[0], tmp_path)
    x = {"x": drawn(1, 3, 256)}
    assert run_in_float(path, x, check=True).steps is not None
    real = interpreter.Interpreter

    def by_reference(**options: Any) -> Any:
        return real(**{**options, "experimental_op_resolver_type": OpResolverType.BUILTIN_REF})

    monkeypatch.setattr(interpreter, "Interpreter", by_reference)
    with pytest.raises(NumbersError, match=r"LiteRT's kernel for w differs from the product by \d+"):
        run_in_float(path, x, check=True)


def test_an_input_of_zeros_has_no_steps(tmp_path: Path) -> None:
    path = written(product(SCHEMES["int4/32"])[0], tmp_path)
    assert run_in_float(path, {"x": np.zeros((1, 3, 256), np.float32)}, check=True).steps == 0


def test_every_stretch_is_looked_at_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a matrix of many stretches the first and the last are among those that LiteRT multiplies by."""
    path = written(product(SCHEMES["int8"], 64, 32, bias=False)[0], tmp_path)
    seen: list[int] = []
    real = TfliteRunner.run

    def spy(self: TfliteRunner, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = real(self, inputs)
        seen.append(next(iter(made.values())).shape[-1])
        return made

    monkeypatch.setattr(TfliteRunner, "run", spy)
    monkeypatch.setattr("m4c.blockwise.STRETCH", 32 * 7)
    ran = run_in_float(path, {"x": drawn(1, 3, 32)}, check=True)
    assert ran.steps is not None
    assert seen == [7, 1]
    assert len(seen) == float_products.SAMPLED
