"""Part files of `headstream embed FILE -o`: whose they are, and who may write them."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from headstream.server.cli.part_file import SOURCE, PartFile

RUN = {SOURCE: "a digest", "options": {}}
OTHER = {SOURCE: "another digest", "options": {}}


@pytest.mark.parametrize(
    "content", [b"mine", b"mine\n", b"\xff\n", b"123\n", b"null\n", b"[]\n", b'{"a": 1}\n']
)
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy.part"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no part file"):
        PartFile(path, RUN, 1)
    assert path.read_bytes() == content


def test_of_a_run_without_a_line_done_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npy.part"
    path.write_bytes(b"")  # as one leaves that is killed at once
    with PartFile(path, RUN, 1):
        assert path.exists()
    assert not path.exists()


def test_it_is_deleted_while_nobody_else_can_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unlink, tries = tmp_path / "a.npy.part", Path.unlink, 0

    def open_and_unlink(file: Path) -> None:
        nonlocal tries
        tries += 1
        with pytest.raises(ValueError, match="another process is writing it"):
            PartFile(path, OTHER, 1)
        unlink(file)

    with PartFile(path, RUN, 1):
        monkeypatch.setattr(Path, "unlink", open_and_unlink)
    assert tries == 1
    assert not path.exists()


def test_one_that_was_deleted_while_it_was_opened_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise what is done would be in a file without a name."""
    path, flock = tmp_path / "a.npy.part", fcntl.flock
    first = PartFile(path, RUN, 1)

    def end_and_flock(file: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(None, None, None)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", end_and_flock)
    with PartFile(path, OTHER, 1) as part:
        part.add_error(0, "INVALID_FIELD", "it is empty")
    with PartFile(path, OTHER, 1) as again:
        assert again.errors() == {0: ("INVALID_FIELD", "it is empty")}
