"""JSON files beside weights, read as what they are: small mappings that someone else wrote."""

import json
from collections.abc import Mapping
from pathlib import Path

from m4c.errors import CheckpointError

LARGEST = 1 << 24
"""Bytes; a published config.json has a few thousand."""


def read_configuration(path: Path) -> Mapping[str, object]:
    """Return the mapping in the JSON file at ``path``.

    Raises:
        CheckpointError: if it is not readable, not JSON, no mapping, or larger than :data:`LARGEST`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        held: object = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable JSON file: {error}",
            where=str(path),
            fix="copy or download the file again",
        ) from error
    if not isinstance(held, dict):
        raise CheckpointError(
            f"{path.name} holds a {type(held).__name__}, not a mapping",
            where=str(path),
            fix="copy or download the file again",
        )
    return held
