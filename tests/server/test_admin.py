"""The admin port and those who do not read what they asked for."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge

from headstream.server import admin
from headstream.server.admin import AdminServer

LONG = 20 << 20  # bytes; more than the sockets of both sides take


async def _ask(path: str, pause: float, *, registry: CollectorRegistry) -> bytes:
    """The answer to one who reads it after a pause."""
    server = AdminServer(registry, alive=lambda: True, ready=lambda: True)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    await asyncio.sleep(pause)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        await server.stop()


@pytest.mark.parametrize(("pause", "whole"), [(0.0, True), (1.5, False)])
async def test_who_does_not_read_is_left(
    monkeypatch: pytest.MonkeyPatch, pause: float, whole: bool
) -> None:
    monkeypatch.setattr(admin, "READ_SECONDS", 5.0 if whole else 0.3)
    registry = CollectorRegistry()
    Gauge("long", "x" * LONG, registry=registry)
    answer = await _ask("/metrics", pause, registry=registry)
    assert (len(answer) > LONG) is whole


async def test_a_short_answer_is_whole_however_late_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "READ_SECONDS", 0.1)
    answer = await _ask("/livez", 0.5, registry=CollectorRegistry())
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\nOK\n")
