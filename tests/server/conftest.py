from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_tokenizers
from scripted_server import Script, running_script


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a byte-level tokenizer, as an engine would name it."""
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny_tokenizers.byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture
def script() -> Iterator[Script]:
    """The script of a running server; its functions may be set at any time."""
    with running_script() as script:
        yield script
