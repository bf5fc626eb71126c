"""Manifests of sha256 sums, against the sha256sum command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from headstream.model.errors import CheckpointError
from headstream.model.loading.manifest import make_manifest, verify_manifest
from headstream.model.loading.progress import silent


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Files as a sentence-transformers directory has them, and some that nobody reads."""
    root = tmp_path / "checkpoint"
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json", "vocab.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"what {name} holds")
    for name in ("README.md", "model.bin", ".cache/x.json", ".hidden.json"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("nobody reads it")
    return root


@pytest.fixture
def manifest(directory: Path) -> Path:
    path = directory.parent / "sums"
    path.write_text(make_manifest(directory))
    return path


def test_it_is_what_sha256sum_checks(directory: Path, manifest: Path) -> None:
    command = ["sha256sum", "--check", "--strict", str(manifest)]
    told = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [
        "1_Pooling/config.json: OK",
        "config.json: OK",
        "model.safetensors: OK",
        "vocab.txt: OK",
    ]


def test_a_manifest_that_fits(directory: Path, manifest: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    verify_manifest(directory, manifest, lambda *stage: stages.append(stage))
    assert stages == [("verifying", done, 4) for done in range(5)]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "1_Pooling/config.json"])
def test_a_changed_byte_is_found_and_its_file_named(
    directory: Path, manifest: Path, name: str
) -> None:
    data = bytearray((directory / name).read_bytes())
    data[-1] ^= 1
    (directory / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name}: sha256 is .*, the manifest says"):
        verify_manifest(directory, manifest, silent)


@pytest.mark.parametrize("name", ["more.safetensors", "chat_template.jinja", "2_Dense/config.json"])
def test_a_file_that_is_not_listed_is_named(directory: Path, manifest: Path, name: str) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text("new")
    with pytest.raises(CheckpointError, match=f"does not list {name}"):
        verify_manifest(directory, manifest, silent)


def test_files_nobody_reads_may_come_and_go(directory: Path, manifest: Path) -> None:
    (directory / "README.md").unlink()
    (directory / "model.bin").write_text("other")
    (directory / "new.md").write_text("new")
    verify_manifest(directory, manifest, silent)


def test_it_may_lie_in_the_directory_itself(directory: Path, manifest: Path) -> None:
    inside = directory / "sums.txt"
    inside.write_text(manifest.read_text())
    verify_manifest(directory, inside, silent)


def test_a_missing_file_is_named(directory: Path, manifest: Path) -> None:
    (directory / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lists 'vocab\.txt', which is not there"):
        verify_manifest(directory, manifest, silent)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"{'0' * 64}  ../model.safetensors", "not a file within"),
        (f"{'0' * 64}  /etc/passwd", "not a file within"),
        (f"{'0' * 64}  a/../b.json", "not a file within"),
        (f"{'0' * 64}  ./config.json", "not a file within"),
        (f"{'0' * 64}  vocab.txt", "twice"),
        ("nonsense", "not a sha256 line"),
    ],
)
def test_bad_lines_are_named(directory: Path, manifest: Path, line: str, complaint: str) -> None:
    manifest.write_text(manifest.read_text() + line)
    with pytest.raises(CheckpointError, match=complaint):
        verify_manifest(directory, manifest, silent)


def test_a_missing_manifest_is_named(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="no/such cannot be read"):
        verify_manifest(directory, Path("no/such"), silent)
