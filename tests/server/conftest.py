from __future__ import annotations

from pathlib import Path

import pytest

import tiny_tokenizers


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a byte-level tokenizer, as an engine would name it."""
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny_tokenizers.byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    return directory
