"""A server that checks the sums of its model's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headstream.server.cli.app import app
from server_process import running_server


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "checkpoint"))


@pytest.fixture
def flags(checkpoint: Path, tmp_path: Path) -> list[str]:
    done = CliRunner().invoke(app, ["manifest", str(checkpoint)])
    assert done.exit_code == 0
    manifest = tmp_path / "sums"
    manifest.write_text(done.stdout)
    return ["--manifests", f"tiny={manifest}"]


def test_the_model_that_was_listed_is_served(checkpoint: Path, flags: list[str]) -> None:
    with running_server(checkpoint, *flags) as server:
        assert server.health() == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_changed_byte_stops_the_start(
    checkpoint: Path, flags: list[str], tmp_path: Path, name: str
) -> None:
    data = bytearray((checkpoint / name).read_bytes())
    # The last byte of a weight; a letter of the tokenizer, which is read by the front.
    data[-1 if name == "model.safetensors" else data.rindex(b"}") - 2] ^= 1
    (checkpoint / name).write_bytes(data)
    log = tmp_path / "log"
    with (
        pytest.raises(AssertionError, match="did not start"),
        running_server(checkpoint, *flags, stderr=log),
    ):
        pass
    assert f"{checkpoint / name}: sha256 is" in log.read_text()


def test_without_a_manifest_the_changed_byte_is_served(checkpoint: Path) -> None:
    """The control."""
    data = bytearray((checkpoint / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(data)
    with running_server(checkpoint) as server:
        assert server.health() == 1


def test_what_is_no_model_is_named() -> None:
    done = CliRunner().invoke(app, ["manifest", "no-such-model"])
    assert done.exit_code == 1
    assert "no-such-model" in done.stderr
