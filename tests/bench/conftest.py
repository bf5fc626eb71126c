"""What the tests of benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are compiled to, once a session."""
    return tmp_path_factory.mktemp("cache")
