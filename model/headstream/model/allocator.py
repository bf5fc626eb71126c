"""The process's memory: what is freed and kept, and huge pages. Loads no torch."""

from __future__ import annotations

import ctypes
import mmap

HUGE_PAGE = 2 << 20
"""Bytes of a huge page, as x86 and most ARM systems have them."""

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


def advise_huge_pages(address: int, num_bytes: int) -> None:
    """Ask for huge pages in memory that nobody has touched yet. Linux only; elsewhere nothing.

    Where the system's setting is "madvise", as it mostly is, they come to those who ask.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if madvise is not None and advice is not None:
        madvise(ctypes.c_void_p(address), ctypes.c_size_t(num_bytes), advice)
