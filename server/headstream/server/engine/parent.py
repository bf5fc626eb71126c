"""A child process that does not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> Callable[[], bool]:
    """Have the system kill this process when its parent ends, even if it is stopped or stuck.

    Linux only; elsewhere whoever waits for something must ask: the answer says if it is there.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we came here
        sys.exit(1)
    return lambda: os.getppid() == parent
