"""Memory that is free goes back to the system: threads that compute piece after piece would keep the most they ever held."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of glibc's mallopt. Source: malloc.h."""

PIECE = 4 << 20
"""Bytes: larger pieces are mapped alone and unmapped when they are let go; that much may lie free at the end of the heap."""


def give_back() -> None:
    """Let glibc keep no more than a piece, in one heap for all threads; other allocators are left as they are.

    By itself it makes a heap for each thread and raises both thresholds up to 32 and 64 MiB as pieces are freed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, PIECE), (TRIM_THRESHOLD, PIECE)):
            mallopt(parameter, value)


def trim() -> None:
    """Give back what lies free between what is in use, where the system is glibc: a runtime that was closed leaves holes.

    Freed pieces at the end of the heap go by themselves (:func:`give_back`).
    """
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if release is not None:
        release(0)
