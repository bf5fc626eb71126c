"""A tiny random model for real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from server_process import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Gemma 3 with a byte-level tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))
