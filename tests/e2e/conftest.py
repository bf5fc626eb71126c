"""Real servers: with a tiny random model, with the embedded one, and with a real encoder."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from evaluated_model import SHORT_FLAGS, save_short_model
from explorer_browser import ENCODER, Explorer, browser, chromium_path, opened
from headstream.client import Client
from headstream.model.loading.source import resolve
from server_process import Server, running_server, save_tiny_model

CACHE = Path.home() / ".cache" / "headstream"  # the server's default
MINILM = "all-minilm-l6-v2"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Gemma 3 with a byte-level tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Generator[str]:
    """Address of a server with the tiny model."""
    with running_server(tiny_model) as running:
        yield running.address


@pytest.fixture(scope="module", params=["with a beginning mark", "without"])
def short_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random model with a short context, for lm_eval."""
    mark = request.param != "without"
    return save_short_model(tmp_path_factory.mktemp("short-model"), mark=mark)


@pytest.fixture(scope="module")
def short_server(short_model: Path) -> Generator[Server]:
    """A server with that model."""
    with running_server(short_model, *SHORT_FLAGS) as running:
        yield running


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Directory of the embedded model, converted where it is not yet."""
    return resolve("gemma-3-270m", CACHE)


@pytest.fixture(scope="session")
def gemma_server(gemma: Path) -> Generator[Server]:
    """A server with the embedded model in float32."""
    with running_server(gemma, "--dtype", "float32", "--threads", "2") as running:
        yield running


@pytest.fixture(scope="session")
def minilm_server() -> Generator[Server]:
    """A server with the real all-MiniLM-L6-v2 in float32."""
    with running_server(Path(MINILM), "--dtype", "float32", "--threads", "2") as running:
        yield running


@pytest.fixture(scope="session")
def explorer_server(gemma: Path) -> Generator[Server]:
    """With the explorer, a real model in float32 and an encoder; skips without Chromium."""
    chromium_path()
    flags = ["--models", ENCODER, "--explorer", "--dtype", "float32", "--max-text-bytes", "9000"]
    with running_server(gemma, *flags, name=gemma.name) as running:
        yield running


@pytest.fixture(scope="session")
def minilm_reference() -> Any:
    """The same weights in sentence-transformers, float32."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(resolve(MINILM, CACHE)), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def explorer_client(explorer_server: Server) -> Generator[Client]:
    """A client of that server."""
    with Client(explorer_server.address) as client:
        yield client


@pytest.fixture(scope="module")
def chromium() -> Generator[Any]:
    """A browser without a window; skips where there is none.

    Its driver has an event loop in this thread: no longer than for the tests that need it.
    """
    with browser() as chromium:
        yield chromium


@pytest.fixture
def explorer(chromium: Any, explorer_server: Server) -> Generator[Explorer]:
    """The page, open; the browser must have had nothing to complain about."""
    with opened(chromium, explorer_server.admin) as explorer:
        yield explorer
        assert explorer.complaints == []
