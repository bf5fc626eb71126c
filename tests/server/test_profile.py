"""The profiles: what is served unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import front_fakes
from front_fakes import Running
from headstream.server.config_sources import load_settings
from headstream.v1 import model_service_pb2, model_service_pb2_grpc

Code = grpc.StatusCode
INTERNALS = "headstream.v1.InternalsService"
PRODUCTION = ["--profile", "production"]


@pytest.mark.parametrize(
    ("flags", "reflection", "internals"),
    [
        ([], True, True),
        (["--no-reflection"], False, True),
        (["--no-internals"], True, False),
        (PRODUCTION, False, False),
        ([*PRODUCTION, "--reflection"], True, False),
        ([*PRODUCTION, "--internals"], False, True),
        ([*PRODUCTION, "--no-internals"], False, False),
        (["--tensor-parallel", "2"], True, False),
    ],
)
def test_what_each_profile_serves(flags: list[str], reflection: bool, internals: bool) -> None:
    settings = load_settings(flags)
    assert (settings.serves_reflection, settings.serves_internals) == (reflection, internals)


def test_a_variable_and_the_file_ask_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "headstream.yaml"
    path.write_text("profile: production\nreflection: true\n")
    monkeypatch.setenv("HEADSTREAM_INTERNALS", "true")
    settings = load_settings([], path)
    assert (settings.serves_reflection, settings.serves_internals) == (True, True)


async def listed(running: Running) -> set[str] | None:
    """The services that reflection names; None: there is no reflection."""
    # As a unary call, which is the same on the wire: a stream tells that its message could not be
    # sent any more, where it is refused sooner.
    ask: Any = running.channel.unary_unary(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    try:
        reply = await ask(reflection_pb2.ServerReflectionRequest(list_services=""))
    except grpc.aio.AioRpcError as error:
        if error.code() is not Code.UNIMPLEMENTED:
            raise
        return None
    return {service.name for service in reply.list_services_response.service}


async def knows_internals(running: Running) -> bool:
    """Whether health, GetModel and the methods themselves speak of InternalsService."""
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    try:
        await health.Check(health_pb2.HealthCheckRequest(service=INTERNALS))
        known = True
    except grpc.aio.AioRpcError as error:
        if error.code() is not Code.NOT_FOUND:
            raise
        known = False
    raw: Any = running.channel.unary_stream(f"/{INTERNALS}/Trace")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(b"").read()
    assert (caught.value.code() is not Code.UNIMPLEMENTED) is known
    stub: Any = model_service_pb2_grpc.ModelServiceStub(running.channel)
    model = (await stub.GetModel(model_service_pb2.GetModelRequest())).model
    served = {each.method for each in model.capabilities if each.served}
    assert known or not any(INTERNALS in method for method in served)
    return known


async def test_production_serves_neither_reflection_nor_internals(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint, *PRODUCTION) as running:
        assert await listed(running) is None
        assert not await knows_internals(running)


async def test_development_serves_both(checkpoint: Path) -> None:
    async with front_fakes.running_front(checkpoint) as running:
        names = await listed(running)
        assert names is not None
        assert INTERNALS in names
        assert await knows_internals(running)


async def test_reflection_does_not_speak_of_what_is_off(checkpoint: Path) -> None:
    flags = [*PRODUCTION, "--reflection"]
    async with front_fakes.running_front(checkpoint, *flags) as running:
        names = await listed(running)
        assert names is not None
        assert "headstream.v1.LogitsService" in names
        assert INTERNALS not in names
