"""What a Serve config imports: ``import_path: headstream.server.ray.app:build``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from headstream.server.ray.replica import MAX_ONGOING, Replica, replica_settings

OPTIONS: dict[str, Any] = {
    "name": "Headstream",
    "max_ongoing_requests": MAX_ONGOING,
    "health_check_period_s": 2,
    "health_check_timeout_s": 10,
    "graceful_shutdown_wait_loop_s": 0.5,
    # Open calls are let to their end: the longest stream, and what Ray takes to take a replica out.
    "graceful_shutdown_timeout_s": 340,
}
"""Of the deployment; a Serve config may say otherwise."""


def build(arguments: dict[str, object]) -> object:
    """The application.

    Args:
        arguments: Settings, as of ``headstream serve``.

    Raises:
        ConfigError: A setting is unknown or wrong.
    """
    replica_settings(arguments)  # here, where whoever deploys reads it
    serve: Any = import_module("ray.serve")  # the extra `ray`: not everybody has it
    return serve.deployment(Replica, **OPTIONS).bind(arguments)
