# ruff: noqa: N818 - the names say what happened; the tree below says that they are errors
"""Everything a call to the lookup service can fail with.

    ServiceError
    ├── InvalidRequest     INVALID_ARGUMENT     INVALID_FIELD          names the field and the limit
    ├── MalformedRequest   INVALID_ARGUMENT     MALFORMED_MESSAGE
    ├── ModelChanged       FAILED_PRECONDITION  MODEL_CHANGED          other vectors than those kept
    ├── ModelRefused       as the server says   as the server says     the model cannot read it
    ├── ModelUnavailable   UNAVAILABLE          MODEL_UNAVAILABLE      the Headstream server is away
    └── AccessRefused      as headstream.access.refusal says
    StartError                                  at start, never an answer to a request

What is not here is a bug: INTERNAL with a fixed text, and the cause in the log.
"""

from __future__ import annotations

import grpc

from headstream.access.failure import AccessRefused, InvalidRequest, MalformedRequest, ServiceError

__all__ = [
    "AccessRefused",
    "InvalidRequest",
    "MalformedRequest",
    "ModelChanged",
    "ModelRefused",
    "ModelUnavailable",
    "ServiceError",
    "StartError",
]

Code = grpc.StatusCode


class StartError(Exception):
    """The service cannot start; the message says why."""


class ModelChanged(ServiceError):
    """The server computes other vectors than those in the store: they cannot be compared."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_CHANGED"

    def __init__(self, difference: str) -> None:
        super().__init__(
            f"the model is not the one whose vectors are kept ({difference}); "
            "serve that one again, or use another store"
        )


class ModelRefused(ServiceError):
    """The Headstream server has refused a text, with a status of its own."""

    def __init__(self, message: str, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class ModelUnavailable(ServiceError):
    """No Headstream server answers now. What is kept stays as it is."""

    code = Code.UNAVAILABLE
    reason = "MODEL_UNAVAILABLE"
