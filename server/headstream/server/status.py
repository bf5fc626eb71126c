"""A :class:`ServiceError` as a gRPC status, with google.rpc details in the trailers."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from headstream.server.errors import EngineFault, ServiceError

DOMAIN = "headstream"
REQUEST_ID_KEY = "x-request-id"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

MetadataItems = tuple[tuple[str, str | bytes], ...]


def public_message(error: ServiceError, request_id: str) -> str:
    """What the caller reads. An engine fault tells nothing but the id to look for in the log."""
    if isinstance(error, EngineFault):
        return f"internal error; request id {request_id}"
    return error.message


def to_trailers(error: ServiceError, request_id: str) -> MetadataItems:
    """Trailing metadata of a failed call."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={"request_id": request_id}
    )
    code: int = error.code.value[0]
    status = status_pb2.Status(code=code, message=public_message(error, request_id))
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
