"""Files that may be replaced while a service runs: looked at again and again, read when changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.access")

Stamp = tuple[tuple[int, int, int, int] | None, ...]


class FileError(Exception):
    """A file cannot be used; the message names it and says why."""


class WatchedFiles:
    """Files that are read together."""

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], None]) -> None:
        """Reads them for the first time.

        Args:
            what: What they hold, for the log.
            paths: Their names, which may be links.
            read: Reads all of them, or changes nothing and raises FileError.

        Raises:
            FileError: They cannot be used.
        """
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._seen = self._stamp()  # before they are read: what changes meanwhile is seen next time
        read()

    def look(self) -> None:
        """Read them again if they have changed; what cannot be used is logged and left alone."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._read()
        except FileError as error:
            why = str(error)
            log.error("changed files kept out", what=self._what, error=why)  # noqa: TRY400 - says all
        else:
            log.info("changed files taken up", what=self._what)

    def _stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


async def watch(files: Sequence[WatchedFiles], seconds: float) -> None:
    """Look at the files every so many seconds, without end."""
    while files:
        await asyncio.sleep(seconds)
        for each in files:
            await asyncio.to_thread(each.look)  # a network's file system may take its time


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """What differs once a file was written, replaced or made readable; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
