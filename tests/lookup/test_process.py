"""The process: health, reflection, a gentle end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from broken_frames import UNIMPLEMENTED, call_that_is_no_text, say
from lookup_process import Lookup, running_lookup
from server_process import Server

NAME = "headstream.v1.LookupService"


def test_it_tells_what_it_is_and_ends_when_told(minilm: Server, tmp_path: Path) -> None:
    with running_lookup(minilm.address, tmp_path) as lookup:
        health: Any = health_pb2_grpc.HealthStub(lookup.channel)
        check = health_pb2.HealthCheckRequest(service=NAME)
        assert health.Check(check, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(lookup.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reply = next(reflection.ServerReflectionInfo(iter([asked]), timeout=60))
        assert NAME in {service.name for service in reply.list_services_response.service}
        assert list(lookup.add({"a": "A text."}).outcomes)
        lookup.process.terminate()
        assert lookup.process.wait(60) == 0
    with running_lookup(minilm.address, tmp_path) as lookup:
        assert lookup.stats().documents == 1


def test_a_path_that_is_no_text_ends_nothing(lookup: Lookup) -> None:
    for _ in range(3):
        assert UNIMPLEMENTED in say(lookup.address, call_that_is_no_text(), UNIMPLEMENTED)
        assert lookup.stats().documents == 0
