"""JSON files of others: of bounded size and depth, so that none of them stops the process."""

import json
from pathlib import Path
from typing import Any

LARGEST = 64 << 20
"""Bytes of a JSON file, at most; the largest of use, a tokenizer of 250,000 words, has 17 MB."""


def read_json(path: Path) -> Any:
    """Return what the file at ``path`` holds.

    Raises:
        ValueError: if it is not readable, not JSON in UTF-8, nested without end, or larger than :data:`LARGEST`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(error.strerror) from error
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
