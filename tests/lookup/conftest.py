"""A real Headstream server with the real MiniLM, and a lookup service beside it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from headstream.client import Client
from lookup_process import Lookup, running_lookup
from server_process import Server, running_server, save_tiny_model


@pytest.fixture(scope="session")
def minilm() -> Generator[Server]:
    with running_server(Path("all-minilm-l6-v2"), "--dtype", "float32") as running:
        yield running


@pytest.fixture
def client(minilm: Server) -> Generator[Client]:
    with Client(minilm.address) as client:
        yield client


@pytest.fixture(scope="session")
def one_lookup(minilm: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[Lookup]:
    with running_lookup(minilm.address, tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def lookup(one_lookup: Lookup) -> Generator[Lookup]:
    """Without documents; its cache and its counts go on."""
    yield one_lookup
    if one_lookup.ids:
        one_lookup.delete(*one_lookup.ids)
        one_lookup.ids.clear()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Gemma 3 with a byte-level tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))
