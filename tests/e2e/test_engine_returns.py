"""An engine that ends while its files cannot be read: it is tried again until they can."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from server_process import Server, running_server, save_tiny_model

SERVING = health_pb2.HealthCheckResponse.SERVING
UNREADABLE = Path("/proc/self/mem")  # a file whose first bytes nobody can read, root included


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def tokens(server: Server) -> list[int]:
    return [each.step.token_id for each in server.generate(5) if each.HasField("step")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja"])
def test_a_file_that_cannot_be_read_for_a_while(name: str, tmp_path: Path) -> None:
    """The engine reads the one, the front the other."""
    with pytest.raises(OSError, match="Input/output error"):
        UNREADABLE.read_bytes()
    model, log = tmp_path / "model", tmp_path / "log"
    model.mkdir()
    save_tiny_model(model)
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    file, kept = model / name, tmp_path / name
    with running_server(model, "--dtype", "float32", stderr=log) as server:
        expected = tokens(server)
        file.rename(kept)
        file.symlink_to(UNREADABLE)
        [engine] = server.engines()
        engine.kill()
        until(lambda: "engine did not start" in log.read_text())
        assert server.health() != SERVING
        file.unlink()
        kept.rename(file)
        until(lambda: server.health() == SERVING)
        assert tokens(server) == expected
        assert server.metrics()["engine_restarts_total", "tiny"] >= 2
        assert name in log.read_text(), "it says which file it was"
