"""What the caller reads of a :class:`ServiceError`."""

from __future__ import annotations

from headstream.server.errors import EngineFault, ServiceError


def public_message(error: ServiceError, request_id: str) -> str:
    """What the caller reads. An engine fault tells nothing but the id to look for in the log."""
    if isinstance(error, EngineFault):
        return f"internal error; request id {request_id}"
    return error.message
