"""A replica that wants tokens, direct and behind Envoy; and the table of what clients saw."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

import interop_requests as make
from interop_judge import InteropTable, Served
from proxy_process import running_proxy
from replicas import Replica
from server_process import save_tiny_model
from tokens_of_callers import make_token

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
TABLE = pytest.StashKey[InteropTable]()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("interop")
    token, entry = make_token("interop")
    (folder / "tokens.toml").write_text(entry)
    (folder / "model").mkdir()
    flags = ["--tokens", str(folder / "tokens.toml"), "--open-inference"]
    flags += ["--max-text-bytes", str(1 << 20)]
    replica = Replica(save_tiny_model(folder / "model"), *flags)
    replica.start()
    yield Served(replica, token)
    replica.kill()


@pytest.fixture(scope="session")
def behind_envoy(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Its address."""
    with running_proxy("envoy", [served.replica], tmp_path_factory.mktemp("envoy")) as address:
        yield address


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is sent, for programs that do not share our messages."""
    path = tmp_path_factory.mktemp("cases") / "cases.json"
    sent: dict[str, Any] = {
        "text": make.TEXT,
        "texts": make.TEXTS,
        "rows": make.ROWS,
        "short": make.SHORT,
        "endless": make.ENDLESS,
        "soon": make.SOON,
        "long": make.LONG,
        "large": make.LARGE,
        "too_large": len(make.TOO_LARGE),
        "request_id": make.REQUEST_ID,
        "service": make.SERVICE,
        "unknown": make.UNKNOWN,
        "bad_field": make.BAD_FIELD,
        "embed": _plain(make.embed()),
        "embed_bad": _plain(make.embed(layer=99)),
        "generate_short": _plain(make.generate(make.SHORT)),
        "generate_endless": _plain(make.generate(make.ENDLESS)),
        "stream": [_plain(request) for request in make.stream()],
    }
    path.write_text(json.dumps(sent))
    return path


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


@pytest.fixture(scope="session")
def interop_table(pytestconfig: pytest.Config) -> InteropTable:
    """Printed at the end."""
    return pytestconfig.stash.setdefault(TABLE, InteropTable())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table; the long form's is kept."""
    table = config.stash.get(TABLE, None)
    if table is None or not table.columns:
        return
    terminalreporter.section("clients")
    terminalreporter.write(table.text())
    if config.getoption("long") and not config.option.keyword:  # a part would replace the whole
        table.keep(DOCUMENT)
