"""Who is told how the start of a server goes: a person at a terminal, or a program."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from rich.console import Console

from headstream.client import AsyncClient, HeadstreamError
from headstream.server.cli.loading import LoadingDisplay
from headstream.server.cli.views import server as views

if TYPE_CHECKING:
    from headstream.client import ModelInfo
    from headstream.server.config import Settings
    from headstream.server.engine.messages import Loading
    from headstream.server.front import Ports


class Watcher(ABC):
    """Told by the front, on its event loop."""

    @abstractmethod
    def on_progress(self, loading: Loading) -> None:
        """Some part of a stage is over."""

    @abstractmethod
    def on_ready(self, ports: Ports) -> None:
        """The server answers."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """The server has ended."""


class EventWatcher(Watcher):
    """Tells a program, in JSON lines on stdout."""

    def on_progress(self, loading: Loading) -> None:
        """A line with the stage and how far it is."""
        self._tell("loading", stage=loading.stage, done=loading.done, total=loading.total)

    def on_ready(self, ports: Ports) -> None:
        """A line with the ports."""
        self._tell("ready", address=ports.address, admin_port=ports.admin)

    def _tell(self, event: str, **values: str | int) -> None:
        print(json.dumps({"event": event, **values}), flush=True)


class TerminalWatcher(Watcher):
    """Tells a person, on stderr."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._console = Console(stderr=True, highlight=False)
        self._display = LoadingDisplay(self._console)
        self._greeting: asyncio.Task[None] | None = None  # kept, or it could be collected
        self._display.start()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._display.stop()

    def on_progress(self, loading: Loading) -> None:
        """A bar, or a line, for the stage."""
        self._display.update(loading.stage, loading.done, loading.total)

    def on_ready(self, ports: Ports) -> None:
        """The ready panel, once the server itself has said what it serves."""
        self._display.finish()
        self._greeting = asyncio.get_running_loop().create_task(self._greet(ports))

    async def _greet(self, ports: Ports) -> None:
        tls = self._settings.tls_cert is not None
        admin = f"{ports.host}:{ports.admin}"
        models = [] if tls else await _ask(ports)
        explorer = self._settings.explorer
        if self._console.is_terminal:
            panel = views.ready(ports.address, admin, models, tls=tls, explorer=explorer)
            self._console.print(panel)
        else:
            line = views.ready_line(ports.address, admin, models, explorer=explorer)
            self._console.print(line, soft_wrap=True)


async def _ask(ports: Ports) -> list[ModelInfo]:
    """What the server says that it serves; nothing where it cannot be asked from here."""
    host = "127.0.0.1" if ports.host in {"0.0.0.0", "::"} else ports.host  # noqa: S104 - compared
    async with AsyncClient(f"{host}:{ports.grpc}", connect_timeout=2, timeout=2) as client:
        try:
            return await client.models()
        except HeadstreamError:
            return []
