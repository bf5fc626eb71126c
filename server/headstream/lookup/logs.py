"""Logs of the lookup service: JSON lines on stderr."""

from __future__ import annotations

import sys

import structlog


def configure_logs() -> None:
    """Set the format for the whole process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
