"""What a run that embeds a file has done so far, so that another can go on."""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

SOURCE = "lines of"
"""What every run tells of itself: the digest of its text."""
_HEAD = struct.Struct("<QIB")  # line, bytes that follow, what they are
_VECTOR, _ERROR, _FORMAT, _CUT_VECTOR = 0, 1, 2, 3  # the last: of a text that was cut


class PartFile:
    """A line of JSON that tells what is run, then a record for each line of text that is done.

    Records are appended as answers come, in any order. A run that was cut leaves a broken record
    at the end at worst, which the next one cuts off. Where nothing was done, nothing is kept.

    Raises:
        ValueError: It belongs to another run, or another process is writing it, or it is a file of
            another kind.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], num_lines: int) -> None:
        self.path = path
        self.done = bytearray(num_lines)  # 1 for each line that is
        self.num_truncated = 0  # lines whose vector is that of their beginning
        self.format: tuple[str, list[int]] | None = None  # dtype and shape of a vector
        self._file = _open_locked(path)
        try:
            self._begin(run)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, run: Mapping[str, Any]) -> None:
        """Take up what is there."""
        self._file.seek(0)
        first = self._file.readline()
        self._start = self._file.tell()
        found: Mapping[str, Any] = self._read_run(first) if first else {}
        if all(kind == _FORMAT for _, kind, _ in self._records()):  # new, or nothing was done
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(run).encode() + b"\n")
            self._start = self._file.tell()
            return
        self._compare(found, run)
        end = self._start
        for line, kind, payload in self._records():
            end += _HEAD.size + len(payload)
            if kind == _FORMAT:
                self.format = tuple(json.loads(payload))
            else:
                self.done[line] = 1
                self.num_truncated += kind == _CUT_VECTOR
        self._file.truncate(end)

    def _read_run(self, first: bytes) -> Mapping[str, Any]:
        try:
            found: Any = json.loads(first)
            found[SOURCE]
        except (ValueError, TypeError, LookupError):
            raise ValueError(
                f"{self.path} is no part file; move it, or write to another place"
            ) from None
        run: Mapping[str, Any] = found
        return run

    def _compare(self, found: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        other = [name for name in {**found, **run} if found.get(name) != run.get(name)]
        if other:
            what = "; ".join(f"{name}: {found.get(name)}, now {run.get(name)}" for name in other)
            raise ValueError(
                f"{self.path} belongs to a run that was not finished and differs in {what}: "
                "finish that one, or delete the file"
            )

    def add_vector(
        self, line: int, dtype: str, shape: list[int], data: bytes, *, truncated: bool
    ) -> None:
        """A vector as row-major bytes; ``truncated``: of a line that was cut.

        Raises:
            ValueError: It is of another kind than those before it.
        """
        if self.format is None:
            self.format = (dtype, shape)
            self._write(line, _FORMAT, json.dumps(self.format).encode())
        if self.format != (dtype, shape):
            raise ValueError(f"line {line}: a vector of {dtype} {shape} behind {self.format}")
        self._write(line, _CUT_VECTOR if truncated else _VECTOR, data)
        self.done[line] = 1
        self.num_truncated += truncated

    def add_error(self, line: int, reason: str, message: str) -> None:
        """Why a line has no vector."""
        self._write(line, _ERROR, json.dumps([reason, message]).encode())
        self.done[line] = 1

    def vectors(self) -> Iterator[tuple[int, bytes]]:
        """Line and bytes of every vector, in no order."""
        kinds = {_VECTOR, _CUT_VECTOR}
        return ((line, data) for line, kind, data in self._records() if kind in kinds)

    def errors(self) -> dict[int, tuple[str, str]]:
        """Reason and message of every line that has no vector, in the order of lines."""
        found = {
            line: tuple(json.loads(data)) for line, kind, data in self._records() if kind == _ERROR
        }
        return dict(sorted(found.items()))

    def _write(self, line: int, kind: int, payload: bytes) -> None:
        self._file.write(_HEAD.pack(line, len(payload), kind) + payload)

    def _records(self) -> Iterator[tuple[int, int, bytes]]:
        """All whole records: line, kind and payload."""
        self._file.flush()
        with self.path.open("rb") as file:
            file.seek(self._start)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                line, size, kind = _HEAD.unpack(head)
                payload = file.read(size)
                if len(payload) < size:
                    return
                yield line, kind, payload

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Before the lock is let go of: behind that, it may be another's.
        if not any(self.done) and _is_at(self._file, self.path):
            self.path.unlink()
        self._file.close()


def _open_locked(path: Path) -> IO[bytes]:
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(f"{path}: another process is writing it") from None
        if _is_at(file, path):
            return file
        file.close()  # who had it has deleted it in between


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one that is at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
