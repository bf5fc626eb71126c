"""When watched files are read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headstream.access.files import FileError, WatchedFiles


class Reader:
    """Reads a file, or fails if its group may not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []
        self.files = WatchedFiles("test", [path], self._read)

    def _read(self) -> None:
        if not self.path.exists() or not self.path.stat().st_mode & 0o040:
            raise FileError("not readable")
        self.texts.append(self.path.read_text())


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    return Reader(path)


def _replace(path: Path, text: str, mode: int = 0o640) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def test_what_did_not_change_is_not_read_again(reader: Reader) -> None:
    reader.files.look()
    assert reader.texts == ["old"]


def test_what_was_replaced_is_read_once(reader: Reader) -> None:
    _replace(reader.path, "new")
    reader.files.look()
    reader.files.look()
    assert reader.texts == ["old", "new"]


def test_what_was_made_readable_is_read(reader: Reader) -> None:
    """Its rights alone have changed since the look that failed."""
    _replace(reader.path, "new", mode=0o600)
    reader.files.look()
    assert reader.texts == ["old"]
    reader.path.chmod(0o640)
    reader.files.look()
    assert reader.texts == ["old", "new"]


def test_what_keeps_its_size_and_its_time_is_read(reader: Reader) -> None:
    """As a copy does that keeps the times."""
    times = reader.path.stat()
    reader.path.write_text("new")
    os.utime(reader.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reader.files.look()
    assert reader.texts == ["old", "new"]


def test_what_is_gone_is_read_when_it_is_back(reader: Reader) -> None:
    kept = reader.path.with_name("kept")
    reader.path.rename(kept)
    reader.files.look()
    kept.rename(reader.path)
    reader.files.look()
    assert reader.texts == ["old", "old"]
