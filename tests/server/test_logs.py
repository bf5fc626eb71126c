"""What the log tells at each level."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import front_fakes
from front_calls import until
from headstream.server.config_sources import load_settings
from headstream.server.logs import configure_logs
from headstream.v1 import model_service_pb2 as pb
from headstream.v1 import model_service_pb2_grpc as pb_grpc
from tokens_of_callers import bearer, make_token


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_the_record_of_calls_does_not_depend_on_the_level(
    checkpoint: Path, tmp_path: Path, level: str
) -> None:
    token, entry = make_token("alice")
    (tmp_path / "tokens.toml").write_text(entry)
    flags = ("--tokens", str(tmp_path / "tokens.toml"))
    async with front_fakes.running_front(checkpoint, *flags) as running:
        log = io.StringIO()
        configure_logs(load_settings(["--log-level", level, "--log-format", "json"]), log)
        stub: Any = pb_grpc.ModelServiceStub(running.channel)
        await stub.GetModel(pb.GetModelRequest(), metadata=[bearer(token)], timeout=60)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetModel(pb.GetModelRequest(), timeout=60)
        running.handle.set_state(running.handle.state)
        await until(lambda: log.getvalue().count('"event": "call"') == 2)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    told = [(each["tenant"], each["reason"]) for each in lines if each["event"] == "call"]
    assert told == [("alice", "OK"), ("", "NO_TOKEN")]
    others = {each["event"] for each in lines} - {"call"}
    assert others == ({"engine"} if level in {"debug", "info"} else set())
