"""From a gRPC status, and the google.rpc.Status in its trailers, to an error of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from headstream.client import _errors as errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headstream.client._channel import Target

_BY_CODE: Mapping[str, type[errors.RpcError]] = {
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "NOT_FOUND": errors.NotFound,
    "UNIMPLEMENTED": errors.Unimplemented,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "UNAVAILABLE": errors.Unavailable,
    "CANCELLED": errors.Cancelled,
    "INTERNAL": errors.Internal,
}

# A process that dies in the middle of a stream looks like any of these, depending on the proxy.
_BROKEN_STREAM = frozenset({"UNAVAILABLE", "INTERNAL", "UNKNOWN"})
_CANCELLED_HERE = "Locally cancelled by application!"  # gRPC's own words


class FailedCall(Protocol):
    """The part of a gRPC error that `grpc` and `grpc.aio` have in common."""

    def code(self) -> grpc.StatusCode | None:
        """The status."""
        ...

    def details(self) -> str | None:
        """Its message."""
        ...

    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The headers."""
        ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The trailers."""
        ...


def from_call(error: grpc.RpcError, index: int | None = None) -> errors.RpcError:
    """The error to raise for a failed call.

    Args:
        error: What gRPC raised.
        index: For a stream that had begun: where it was. Its end is then a broken stream, unless
            the status says that it was ended on purpose (a deadline, a slow reader).
    """
    details = parse_details(cast("FailedCall", error))
    if index is not None and details.code == "ABORTED":
        return errors.Aborted(details, index)
    if index is not None and (details.code in _BROKEN_STREAM or was_reset(details)):
        return errors.StreamBroken(details, index)
    if details.code == "ABORTED":
        return errors.Aborted(details, 0)
    return _BY_CODE.get(details.code, errors.RpcError)(details)


def was_reset(details: errors.ErrorDetails) -> bool:
    """Whether it was cancelled, but not by this client: as a proxy ends those of a dead server."""
    return details.code == "CANCELLED" and details.message != _CANCELLED_HERE


def unfinished(index: int, without: str = "its end event") -> errors.StreamBroken:
    """The error for a stream that ended well in gRPC's eyes, but without what ends it."""
    details = errors.ErrorDetails(code="OK", message=f"the stream ended without {without}")
    return errors.StreamBroken(details, index)


def not_resumable(message: str, index: int) -> errors.NotResumable:
    """The error for a broken stream whose rest would not be its own."""
    details = errors.ErrorDetails(code="ABORTED", message=f"cannot be taken up: {message}")
    return errors.NotResumable(details, index)


def unreachable(target: Target) -> errors.Unavailable:
    """The error for a server that could not be connected to in time."""
    message = f"no healthy server at {target.address} within {target.connect_timeout:g} s"
    return errors.Unavailable(errors.ErrorDetails(code="UNAVAILABLE", message=message))


def parse_details(call: FailedCall) -> errors.ErrorDetails:
    """Gather what a failed call says: status, google.rpc details, request id, retry pushback."""
    headers = dict(call.initial_metadata() or ())
    trailers = dict(call.trailing_metadata() or ())
    code = call.code()
    reason, field, retry_after = _parse_status(trailers.get("grpc-status-details-bin", b""))
    return errors.ErrorDetails(
        code=code.name if code is not None else "UNKNOWN",
        message=call.details() or "",
        reason=reason,
        field=field,
        retry_after=_pushback(trailers) if retry_after is None else retry_after,
        request_id=_text(trailers.get("x-request-id") or headers.get("x-request-id") or ""),
    )


def _parse_status(data: str | bytes) -> tuple[str, str, float | None]:
    """Reason, field and seconds to wait of a serialized google.rpc.Status, where they are given."""
    status = status_pb2.Status()
    try:
        status.ParseFromString(data if isinstance(data, bytes) else data.encode())
    except DecodeError:  # a proxy's idea of a detail; the code and message still stand
        return "", "", None
    reason, field, retry_after = "", "", None
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, field, retry_after


def _pushback(trailers: Mapping[str, str | bytes]) -> float | None:
    milliseconds = _text(trailers.get("grpc-retry-pushback-ms", ""))
    return int(milliseconds) / 1000 if milliseconds.isdigit() else None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
