"""Small native kernels, compiled for the processor at hand at first use, cached, and optional."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from headstream.model.kernels import attend_rows, scan_rows
from headstream.model.kernels.attend_rows import AttendRows
from headstream.model.kernels.build import KernelUnavailableError
from headstream.model.kernels.scan_rows import ScanRows

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of every kernel."""

    name: str  # native | torch
    attend_rows: AttendRows
    scan_rows: ScanRows


TORCH_KERNELS = Kernels("torch", attend_rows.attend_rows_torch, scan_rows.scan_rows_torch)


def load_kernels(cache_dir: Path) -> Kernels:
    """The native kernels, compiled into ``cache_dir``, or their torch twins.

    Native code is an option: without a compiler everything works, slower.
    """
    try:
        return Kernels(
            "native", attend_rows.load_native(cache_dir), scan_rows.load_native(cache_dir)
        )
    except KernelUnavailableError as error:
        _log.warning("the slower torch twins of the native kernels run: %s", error)
        return TORCH_KERNELS
