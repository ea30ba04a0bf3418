"""Bundles that accuracy is measured on, whatever their SQNR is."""

from collections.abc import Sequence
from pathlib import Path

from m4c.bundle import Manifest
from m4c.compile import compile_bundle
from m4c.errors import M4CError
from m4c.precisions import INTEGER
from m4c.progress import Silent
from m4c.request import Request
from m4c.scheme import scheme
from m4c.targets.profile import load_target


def built(
    folder: Path,
    graphs: Sequence[str],
    file_format: str,
    precision: str,
    calibration: Path | None,
    *,
    weights: Path,
    preset: str = "m4-nano",
) -> Manifest | M4CError:
    """Return what was compiled of ``graphs``, or why nothing was; after a plus sign, ``precision`` names its observer."""
    precision, _, observer = precision.partition("+")
    integer = precision in INTEGER
    request = Request(
        load_target("cpu"),
        tuple(graphs),
        preset=preset,
        weights=weights,
        format=file_format,
        precision=precision,
        observer=observer or None,
        calibration=str(calibration) if calibration and integer else None,
        scheme=scheme(precision, None, True, "rtn", (), None),
        min_sqnr=-100.0 if integer else None,
    )
    try:
        return compile_bundle(request, folder, Silent())
    except M4CError as error:
        print(file_format, precision, error)
        return error
