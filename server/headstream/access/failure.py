# ruff: noqa: N818 - the names say what happened
"""What a call to either service can fail with, as gRPC tells it: a status, a reason, details.

Each service has a tree of its own in its `errors.py`, which begins with these.
"""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from headstream.access.refusal import Refusal

Code = grpc.StatusCode

DOMAIN = "headstream"
REQUEST_ID_KEY = "x-request-id"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

MetadataItems = tuple[tuple[str, str | bytes], ...]


class ServiceError(Exception):
    """Base of all errors that are told to the caller, in words meant for the caller."""

    code: grpc.StatusCode = Code.INTERNAL
    reason: str = "INTERNAL"
    retry_after_s: float | None = None  # seconds to wait before another try

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def details(self) -> list[Message]:
        """Messages of google.rpc that go with the status, beside ErrorInfo."""
        if self.retry_after_s is None:
            return []
        delay = Duration()
        delay.FromMilliseconds(round(self.retry_after_s * 1000))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class InvalidRequest(ServiceError):
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


class MalformedRequest(ServiceError):
    """The bytes are not the message the method takes."""

    code = Code.INVALID_ARGUMENT
    reason = "MALFORMED_MESSAGE"

    def __init__(self) -> None:
        super().__init__("the request is not a valid message of this method")


class AccessRefused(ServiceError):
    """The call's token does not let it in."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.code = refusal.code
        self.reason = refusal.reason
        self.retry_after_s = refusal.retry_after_s


def to_trailers(error: ServiceError, message: str, request_id: str) -> MetadataItems:
    """Trailing metadata of a failed call. ``message``: what the caller reads."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={"request_id": request_id}
    )
    code: int = error.code.value[0]
    status = status_pb2.Status(code=code, message=message)
    for detail in (info, *error.details()):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers: MetadataItems = (
        (DETAILS_KEY, status.SerializeToString()),
        (REQUEST_ID_KEY, request_id),
    )
    if error.retry_after_s is not None:
        trailers += ((PUSHBACK_KEY, str(round(error.retry_after_s * 1000))),)
    return trailers
