"""One server: everything put together, from the first port to the last call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio
import structlog

from headstream.access import call_server
from headstream.access.files import FileError, watch
from headstream.access.gate import Gate
from headstream.server.admin import AdminServer
from headstream.server.config import Settings
from headstream.server.engine.handle import EngineHandle
from headstream.server.engine.messages import Loading
from headstream.server.engine.state import EngineState
from headstream.server.errors import ConfigError
from headstream.server.explorer.explorer import Explorer
from headstream.server.health import Health
from headstream.server.interceptor import CallInterceptor
from headstream.server.keeper import EngineKeeper
from headstream.server.listener import bind, make_server, read_certificates, service_names
from headstream.server.listening import Listening
from headstream.server.liveness import Heartbeat
from headstream.server.metrics import Metrics
from headstream.server.models import Models, ServedModel
from headstream.server.policy import CallPolicy

if TYPE_CHECKING:
    from headstream.server.tracing import Tracing

CUT_SECONDS = 2.0
"""Before the grace ends: streams still open are told where to go on, instead of being dropped."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("headstream.front")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens."""

    host: str
    grpc: int
    admin: int

    @property
    def address(self) -> str:
        """For clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.grpc}"


class Front:
    """One server. :func:`.process.serve` runs it to its end; Ray and tests do so themselves."""

    def __init__(
        self,
        settings: Settings,
        make_handle: Callable[..., EngineHandle] = EngineHandle,
    ) -> None:
        """Raises ConfigError if the tokens cannot be used, or traces are wanted without `otel`."""
        self._settings = settings
        self.metrics = Metrics()
        self.models = Models(
            [ServedModel(make_handle(config)) for config in settings.engine_configs()]
        )
        self._gate = _make_gate(settings)
        self._tracing = _start_tracing(settings)
        self.policy = CallPolicy(
            metrics=self.metrics,
            gate=self._gate,
            unary_deadline=settings.unary_deadline,
            stream_deadline=settings.stream_deadline,
            stalled_stream=settings.stalled_stream,
            max_message_bytes=settings.max_message_bytes,
            tracing=self._tracing,
        )
        self.health = Health(self.models, service_names(settings))
        self._heartbeats = [Heartbeat() for _ in self.models]
        self._explorer = Explorer(settings) if settings.explorer else None
        self._admin = AdminServer(
            self.metrics.registry,
            alive=lambda: self.alive,
            ready=lambda: self.health.serving,
            explorer=self._explorer,
        )
        self._starting: list[ServedModel] = []
        self._keepers: list[EngineKeeper] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None  # of files that may be replaced
        self._listening = Listening(self._make_server)
        for model, heartbeat in zip(self.models, self._heartbeats, strict=True):
            self._listen_to(model, heartbeat)

    def _listen_to(self, model: ServedModel, heartbeat: Heartbeat) -> None:
        def on_state(state: EngineState) -> None:
            self.metrics.engine_up.labels(model.name).set(state is EngineState.SERVING)
            log.info("engine", model=model.name, state=state.value)
            if state is EngineState.LOADING:
                heartbeat.begin()
            self.health.update_soon()

        self.metrics.engine_up.labels(model.name).set(0)
        self.metrics.engine_restarts.labels(model.name)  # from 0 on: the first one is growth, too
        model.handle.on_state(on_state)
        model.handle.add_listener(heartbeat.observe)
        model.handle.add_listener(self.metrics.step_listener(model.name))

    @property
    def alive(self) -> bool:
        """Whether the process should be left running."""
        given_up = any(keeper.given_up for keeper in self._keepers)
        return (
            self._listening.alive
            and not given_up
            and all(
                heartbeat.alive
                for model, heartbeat in zip(self.models, self._heartbeats, strict=True)
                if model.handle.state is not EngineState.FAILED  # its keeper sees to it
            )
        )

    async def listen(self) -> Ports:
        """Take the ports first, so that a mistake shows before minutes of loading."""
        settings = self._settings
        self._certificates = read_certificates(settings)
        port = await self._listening.bind(settings.port)
        try:
            admin_port = await self._admin.start(settings.host, settings.admin_port)
        except OSError as error:
            raise ConfigError(f"admin_port: {settings.admin_port}: {error.strerror}") from None
        await self._listening.start()
        self._watching = asyncio.create_task(self._watch_files(), name="file watch")
        return Ports(settings.host, port, admin_port)

    async def _make_server(self, port: int) -> tuple[grpc.aio.Server, int]:
        """A server that is bound to the port, not yet started, and the port's number."""
        settings = self._settings.model_copy(update={"port": port})
        interceptor = CallInterceptor(self.policy)
        server = make_server(settings, self.models, self.metrics, interceptor, self.health)
        await self.health.update()
        try:
            if self._explorer is not None:  # first: the port is the last that can fail
                self._explorer.attach(server)
            return server, bind(server, settings, self._certificates)
        except ConfigError:
            await call_server.discard(server)
            raise

    async def _watch_files(self) -> None:
        certificates = [] if self._certificates is None else [self._certificates.files]
        await watch([*self._gate.files, *certificates], self._settings.reload_interval)

    async def load(self, on_progress: Callable[[Loading], None]) -> None:
        """Start the engines, side by side.

        Raises:
            EngineStartError: One of them cannot start.
        """
        self._keepers = [self._make_keeper(model) for model in self.models]
        try:
            async with asyncio.TaskGroup() as group:
                for model, keeper in zip(self.models, self._keepers, strict=True):
                    group.create_task(self._load_one(model, keeper, on_progress))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def _make_keeper(self, model: ServedModel) -> EngineKeeper:
        async def restart() -> None:
            self.metrics.engine_restarts.labels(model.name).inc()
            await model.start(self._settings, lambda _: None)
            await self.health.update()

        return EngineKeeper(model, restart, self._settings.engine_restarts)

    async def _load_one(
        self, model: ServedModel, keeper: EngineKeeper, on_progress: Callable[[Loading], None]
    ) -> None:
        self._starting.append(model)
        await model.start(self._settings, on_progress)
        # At once: it may end while others are still being loaded.
        self._keeping.append(asyncio.create_task(keeper.run(), name=f"keeper of {model.name}"))
        if model.loaded is not None:
            self.metrics.set_limits(model.name, model.loaded.limits)
        await self.health.update()

    async def drain(self) -> None:
        """Stop gently: leave the load balancer, wait, refuse new calls, let the open ones end."""
        settings = self._settings
        for task in self._keeping:
            task.cancel()
        self.health.draining = True
        await self.health.update()
        log.info("draining", delay=settings.drain_delay, grace=settings.grace)
        await asyncio.sleep(settings.drain_delay)
        self.policy.draining = True
        self.policy.cut_open_calls(only_endless=True)  # they would outlast any grace
        cut_after = max(0.0, settings.grace - CUT_SECONDS)
        timer = asyncio.get_running_loop().call_later(cut_after, self.policy.cut_open_calls)
        await self._listening.stop(settings.grace)
        timer.cancel()

    async def close(self) -> None:
        """Stop at once what is still there."""
        tasks = [*self._keeping, *([] if self._watching is None else [self._watching])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listening.stop(None)
        for model in self._starting:
            await model.handle.stop()
        if self._explorer is not None:
            await self._explorer.close()
        await self._admin.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


def _start_tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from headstream.server.tracing import Tracing  # noqa: PLC0415 - nobody else pays for it
    except ImportError as error:
        raise ConfigError(
            f"otlp_endpoint: traces need the extra otel, pip install headstream[otel] ({error})"
        ) from None
    return Tracing(settings.otlp_endpoint)


def _make_gate(settings: Settings) -> Gate:
    try:
        return Gate(settings.tokens, settings.retry_after)
    except FileError as error:
        raise ConfigError(str(error)) from None
