# ruff: noqa: N818 - the names say what happened; the tree below says that they are errors
"""Everything a call to the lookup service can fail with.

    LookupFailure
    ├── InvalidRequest     INVALID_ARGUMENT     INVALID_FIELD          names the field and the limit
    ├── ModelChanged       FAILED_PRECONDITION  MODEL_CHANGED          other vectors than those kept
    ├── ModelRefused       as the server says   as the server says     the model cannot read it
    ├── ModelUnavailable   UNAVAILABLE          MODEL_UNAVAILABLE      the Headstream server is away
    └── AccessRefused      as headstream.access.refusal says
    StartError                                  at start, never an answer to a request

What is not here is a bug: INTERNAL with a fixed text, and the cause in the log.
"""

from __future__ import annotations

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from headstream.access.refusal import Refusal

Code = grpc.StatusCode


class StartError(Exception):
    """The service cannot start; the message says why."""


class LookupFailure(Exception):
    """Base of all errors that are told to the caller, in words meant for the caller."""

    code: grpc.StatusCode = Code.INTERNAL
    reason: str = "INTERNAL"

    retry_after_s: float | None = None  # seconds to wait before another try

    def details(self) -> list[Message]:
        """Messages of google.rpc that go with the status, beside ErrorInfo."""
        if self.retry_after_s is None:
            return []
        delay = Duration()
        delay.FromMilliseconds(round(self.retry_after_s * 1000))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class InvalidRequest(LookupFailure):
    """A field breaks a rule; the message names the field and the limit."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.description = message

    def details(self) -> list[Message]:
        """The field, for programs."""
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=self.field, description=self.description
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]


class ModelChanged(LookupFailure):
    """The server computes other vectors than those in the store: they cannot be compared."""

    code = Code.FAILED_PRECONDITION
    reason = "MODEL_CHANGED"

    def __init__(self, difference: str) -> None:
        super().__init__(
            f"the model is not the one whose vectors are kept ({difference}); "
            "serve that one again, or use another store"
        )


class ModelRefused(LookupFailure):
    """The Headstream server has refused a text, with a status of its own."""

    def __init__(self, message: str, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class ModelUnavailable(LookupFailure):
    """No Headstream server answers now. What is kept stays as it is."""

    code = Code.UNAVAILABLE
    reason = "MODEL_UNAVAILABLE"


class AccessRefused(LookupFailure):
    """The call's token does not let it in."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.code = refusal.code
        self.reason = refusal.reason
        self.retry_after_s = refusal.retry_after_s
