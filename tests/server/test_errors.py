from __future__ import annotations

import re

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from headstream.access import failure
from headstream.access.failure import to_trailers
from headstream.access.refusal import scope_missing
from headstream.server import errors
from headstream.server.errors import (
    AccessRefused,
    DeadlineExceeded,
    Draining,
    EngineFault,
    EngineUnavailable,
    InvalidRequest,
    MalformedRequest,
    ModelLoading,
    ModelNotFound,
    NoChatTemplate,
    NotServed,
    QueueFull,
    ReplyTooLarge,
    ServiceError,
    SessionExpired,
    SessionLimit,
    SlowConsumer,
    StreamCut,
    TooLate,
)
from headstream.server.status import public_message

OURS = {errors.__name__, failure.__name__}  # the lookup service has others
EXAMPLES: list[ServiceError] = [
    InvalidRequest("prompt.text", "is empty"),
    NoChatTemplate("prompt.chat"),
    MalformedRequest(),
    ModelNotFound("no such model"),
    NotServed("not served"),
    ModelLoading("loading"),
    ReplyTooLarge(2, 1),
    QueueFull("full", 1.5),
    TooLate(3.0, 1.0, 2.0),
    SessionLimit("too many"),
    SlowConsumer(30),
    AccessRefused(scope_missing("logits", "alice")),
    DeadlineExceeded(60),
    SessionExpired("no move for 5 s"),
    EngineUnavailable("gone"),
    Draining(),
    StreamCut(),
    EngineFault("secret: /internal/path"),
]


def unpack(error: ServiceError) -> tuple[dict[str, str | bytes], status_pb2.Status]:
    trailers = dict(to_trailers(error, public_message(error, "id-1"), "id-1"))
    data = trailers["grpc-status-details-bin"]
    assert isinstance(data, bytes)
    return trailers, status_pb2.Status.FromString(data)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_carries_its_reason_and_the_request_id(error: ServiceError) -> None:
    trailers, status = unpack(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "headstream")
    assert info.metadata["request_id"] == trailers["x-request-id"] == "id-1"
    assert status.code == error.code.value[0]


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = re.findall(r"[├└]── (\w+) +([A-Z_]+) +([A-Z_]+)", errors.__doc__ or "")
    real = [(type(e).__name__, e.code.name, e.reason) for e in EXAMPLES]
    assert drawn == real
    bases: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    classes = {cls for base in bases for cls in base.__subclasses__()}
    ours = {cls.__name__ for cls in classes if cls.__module__ in OURS}
    assert ours == {name for name, *_ in drawn}


def test_reasons_are_distinct() -> None:
    reasons = [error.reason for error in EXAMPLES]
    assert len(set(reasons)) == len(reasons)


def test_a_field_violation_names_the_field() -> None:
    _, status = unpack(InvalidRequest("prompt.text", "is empty"))
    detail = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(detail)
    assert detail.field_violations[0].field == "prompt.text"
    assert detail.field_violations[0].description == "is empty"


def test_a_full_queue_says_when_to_try_again() -> None:
    trailers, status = unpack(QueueFull("full", 1.5))
    detail = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(detail)
    assert detail.retry_delay.ToMilliseconds() == 1500
    assert trailers["grpc-retry-pushback-ms"] == "1500"


def test_a_fault_tells_nothing_but_the_id() -> None:
    trailers, status = unpack(EngineFault("secret: /internal/path"))
    assert status.message == "internal error; request id id-1"
    assert "secret" not in str(trailers)
    assert EngineFault.code is grpc.StatusCode.INTERNAL
