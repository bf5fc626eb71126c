"""Errors as real gRPC statuses bring them."""

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import headstream.client as hs
from headstream.client import AsyncClient, Client


def status(code, message, *details):
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    return status_pb2.Status(
        code=code.value[0], message=message, details=packed
    ).SerializeToString()


def abort_with(code, message, *details, trailers=()):
    def handler(request, context):
        context.set_trailing_metadata(
            (
                ("grpc-status-details-bin", status(code, message, *details)),
                ("x-request-id", "r-42"),
                *trailers,
            )
        )
        context.abort(code, message)

    return handler


def failure(script):
    with Client(script.address) as client, pytest.raises(hs.RpcError) as caught:
        client.embed("a")
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, hs.InvalidArgument),
        (grpc.StatusCode.FAILED_PRECONDITION, hs.FailedPrecondition),
        (grpc.StatusCode.NOT_FOUND, hs.NotFound),
        (grpc.StatusCode.UNIMPLEMENTED, hs.Unimplemented),
        (grpc.StatusCode.UNAUTHENTICATED, hs.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, hs.PermissionDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, hs.ResourceExhausted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, hs.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, hs.Cancelled),
        (grpc.StatusCode.INTERNAL, hs.Internal),
        (grpc.StatusCode.DATA_LOSS, hs.RpcError),
    ],
)
def test_every_status_has_its_error(script, code, kind):
    info = error_details_pb2.ErrorInfo(reason="WHY", domain="headstream")
    script.embed = abort_with(code, "so it is", info)
    error = failure(script)
    assert type(error) is kind
    assert (error.code, error.reason, error.request_id) == (code.name, "WHY", "r-42")
    assert str(error) == f"{code.name}: so it is (request r-42)"


def test_the_wrong_field_is_named(script):
    violation = error_details_pb2.BadRequest.FieldViolation(field="options.layer")
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    script.embed = abort_with(grpc.StatusCode.INVALID_ARGUMENT, "no such layer", detail)
    error = failure(script)
    assert isinstance(error, hs.InvalidArgument)
    assert error.field == "options.layer"


def test_how_long_to_wait_comes_from_retry_info_or_pushback(script):
    detail = error_details_pb2.RetryInfo(
        retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)
    )
    script.embed = abort_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", detail)
    error = failure(script)
    assert isinstance(error, hs.ResourceExhausted)
    assert error.retry_after == 1.5
    script.embed = abort_with(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailers=(("grpc-retry-pushback-ms", "250"),)
    )
    error = failure(script)
    assert isinstance(error, hs.ResourceExhausted)
    assert error.retry_after == 0.25


def test_details_that_are_no_status_do_no_harm(script):
    def handler(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    script.embed = handler
    error = failure(script)
    assert isinstance(error, hs.NotFound)
    assert (error.reason, error.request_id) == ("", "")


def test_the_request_id_may_come_with_the_headers(script):
    def handler(request, context):
        context.send_initial_metadata((("x-request-id", "r-7"),))
        context.abort(grpc.StatusCode.INTERNAL, "internal error")

    script.embed = handler
    assert failure(script).request_id == "r-7"


def test_before_a_stream_begins_errors_are_those_of_any_call(script):
    script.generate = abort_with(grpc.StatusCode.INTERNAL, "internal error")
    with Client(script.address) as client, pytest.raises(hs.Internal):
        list(client.generate("a"))


async def test_the_async_client_raises_the_same(script):
    info = error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND")
    script.embed = abort_with(grpc.StatusCode.NOT_FOUND, "no such model", info)
    async with AsyncClient(script.address) as client:
        with pytest.raises(hs.NotFound) as caught:
            await client.embed("a")
    assert (caught.value.reason, caught.value.request_id) == ("MODEL_NOT_FOUND", "r-42")
