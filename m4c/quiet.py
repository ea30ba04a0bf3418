"""Silence for libraries that talk about what m4c asks of them on purpose; what matters becomes an error of ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*loggers: str, level: int = logging.ERROR) -> Iterator[None]:
    """Let ``loggers`` tell only what is at least of ``level`` while the block runs."""
    held = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    for logger in held:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in held.items():
            logger.setLevel(before)
