"""Two replicas with a tiny random model, and the table of what they survived."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from outcome import Table
from replicas import Replica, running_replicas
from server_process import save_tiny_model

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
TABLE = pytest.StashKey[Table]()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Replica]]:
    checkpoint = save_tiny_model(tmp_path_factory.mktemp("tiny-model"))
    with running_replicas(checkpoint) as replicas:
        yield replicas


@pytest.fixture
def replicas(pair: list[Replica]) -> list[Replica]:
    """Both of them, running, whatever a test before has left."""
    for replica in pair:
        if not replica.running:
            replica.start()
        replica.wait_until_serving()
    return pair


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether the long form was asked for."""
    return bool(pytestconfig.getoption("long"))


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """Printed at the end."""
    return pytestconfig.stash.setdefault(TABLE, Table())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table; the long form's is kept."""
    table = config.stash.get(TABLE, None)
    if table is None:
        return
    terminalreporter.section("faults")
    terminalreporter.write(table.text())
    if config.getoption("long") and not config.option.keyword:  # a part would replace the whole
        table.write(DOCUMENT)
