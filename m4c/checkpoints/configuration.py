"""JSON files beside weights, read as what they are: small mappings that someone else wrote."""

from collections.abc import Mapping
from pathlib import Path

from m4c.errors import CheckpointError
from m4c.json_file import read_json


def read_configuration(path: Path) -> Mapping[str, object]:
    """Return the mapping in the JSON file at ``path``.

    Raises:
        CheckpointError: if it is not readable, not JSON, no mapping, or too large.
    """
    try:
        held: object = read_json(path)
    except ValueError as error:
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
