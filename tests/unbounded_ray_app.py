"""The application without its look at Ray's variables: a negative control."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from headstream.server.ray.app import OPTIONS
from headstream.server.ray.replica import Replica


class Unbounded(Replica):
    """Runs anywhere."""

    def _check_bounded(self) -> None:
        pass


def build(arguments: dict[str, object]) -> object:
    """As `headstream.server.ray.app.build`."""
    serve: Any = import_module("ray.serve")
    return serve.deployment(Unbounded, **OPTIONS).bind(arguments)
