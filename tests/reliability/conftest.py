"""A tiny random model, and the table of what its servers survived."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from outcome import Table
from server_process import save_tiny_model

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Gemma 3 with a byte-level tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the long form was asked for."""
    return bool(pytestconfig.getoption("long"))


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config, long: bool) -> Generator[Table]:
    """Printed at the end; the long form's is kept."""
    table = Table()
    yield table
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and table.rows:
        reporter.write_line("\n| fault | injected | calls survived | lost |\n" + table.lines())
    if long:
        table.write(DOCUMENT, len(os.sched_getaffinity(0)))
