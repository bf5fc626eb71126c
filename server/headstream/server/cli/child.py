"""A server as a child process, for the demo: started, watched while it loads, ended in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

STOP_SECONDS = 15.0


class ServerFailedError(Exception):
    """The server ended before it was ready; the message is what it said."""


class ServerProcess:
    """`headstream serve` on free ports. It ends with the block that holds it."""

    def __init__(self, flags: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 - closed below
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [
                *(sys.executable, "-m", "headstream.server.cli", "serve", "--events"),
                *("--port", "0", "--admin-port", "0", "--drain-delay", "0", "--grace", "5"),
                *("--log-level", "warning", *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Ctrl-C reaches this program alone, which then ends the server in order.
            start_new_session=True,
        )

    def wait_until_ready(self, on_progress: Callable[[str, int, int], None]) -> str:
        """Follow the start.

        Args:
            on_progress: Told the stage, how many of its parts are over, and of how many.

        Returns:
            The address of the gRPC services.

        Raises:
            ServerFailedError: It ended instead.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                return str(event["address"])
            on_progress(event["stage"], event["done"], event["total"])
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or ["the server ended without a word"]
        raise ServerFailedError(said[-1].removeprefix("error: "))

    def stop(self) -> int:
        """Let it finish what runs, and end; by force where that takes too long.

        Returns:
            Its exit code.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
