"""Servers that are stopped and started again on the same ports, as a load balancer knows them."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from grpc_health.v1 import health_pb2

from server_process import Server, running_server

FLAGS = ("--dtype", "float32", "--kv-cache-bytes", str(64 << 20))
DRAIN_DELAY = ("--drain-delay", "2")  # the default, for which the load balancers are configured

EMBED = "headstream.v1.EmbeddingsService/Embed"
GENERATE = "headstream.v1.LogitsService/Generate"


def free_port() -> int:
    """A port that no outgoing connection takes by chance while a server is away."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Replica:
    """One place in the list of a load balancer."""

    def __init__(self, checkpoint: Path, *flags: str) -> None:
        self.port, self.admin_port = free_port(), free_port()
        ports = ("--port", str(self.port), "--admin-port", str(self.admin_port))
        self._checkpoint = checkpoint
        self._flags = (*FLAGS, *DRAIN_DELAY, *flags, *ports)
        self._stack = ExitStack()
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        assert self._server is not None, "it does not run"
        return self._server

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        self._server = self._stack.enter_context(running_server(self._checkpoint, *self._flags))

    def drain(self) -> None:
        """SIGTERM, and the end that follows by itself."""
        self.server.process.send_signal(signal.SIGTERM)
        assert self.server.process.wait(60) == 0
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self._stack.close()
        self._server = None

    def served(self, method: str) -> float:
        """Calls of a method that ended well since its start."""
        return self.server.metrics().get(("requests_total", "OK", method), 0.0)

    def wait_until_serving(self) -> None:
        """Until its engine answers: a test may have killed it, and it starts again by itself."""
        end = time.monotonic() + 60
        while self.server.health() != health_pb2.HealthCheckResponse.SERVING:
            assert time.monotonic() < end, "its engine does not come back"
            time.sleep(0.1)

    async def wait_until_asked(self) -> None:
        """Until the load balancer sends it calls."""
        await asyncio.to_thread(self._wait_until_asked, time.monotonic() + 60)

    def _wait_until_asked(self, end: float) -> None:
        while not self.served(EMBED):
            assert time.monotonic() < end, "the load balancer does not find it"
            time.sleep(0.1)


@contextmanager
def running_replicas(checkpoint: Path, count: int = 2, *flags: str) -> Generator[list[Replica]]:
    replicas = [Replica(checkpoint, *flags) for _ in range(count)]
    try:
        for replica in replicas:
            replica.start()
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()


def shares(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Each replica's part of the calls between two counts."""
    new = [end - begin for begin, end in zip(before, after, strict=True)]
    return [count / sum(new) for count in new]
