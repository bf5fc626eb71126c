"""A tiny random checkpoint for the engine's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_trace import save_tiny_gemma


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Gemma 3."""
    return save_tiny_gemma(tmp_path_factory.mktemp("tiny-gemma"))


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled to, once a session."""
    return tmp_path_factory.mktemp("cache")
