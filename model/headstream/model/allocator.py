"""The process's memory allocator. Loads no torch: it must be tuned before that does."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

FOREVER = 2**31 - 1
"""Bytes: nothing is given back to the system."""


def tune_allocator(keep_bytes: int = FOREVER) -> None:
    """Keep up to ``keep_bytes`` of freed memory for the next step instead of returning it.

    Large temporaries would otherwise be mapped and faulted in anew, page by page, every time: 15 to
    50% of a big step, and most of the time it takes to make and serialize a message of 1 MiB.
    glibc only; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, keep_bytes)
    mallopt(_M_TOP_PAD, min(64 << 20, keep_bytes))
