"""A reader who does not read: the engine waits for it, and does not ask again and again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

import tiny_tokenizers
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import logits_service_pb2_grpc, types_pb2
from server_process import Server, running_server
from tiny_models import save_tiny

VOCABULARY = 8192  # a row is 32 KiB: 1,900 of them are more than anybody keeps unread
SECONDS = 2.0
MOST_SECONDS = 0.5
"""Of processor time meanwhile: 50 looks a second, and a heartbeat."""


def processor_seconds(engine: psutil.Process) -> float:
    times = engine.cpu_times()
    return float(times.user + times.system)


def until_paused(server: Server) -> None:
    """Until the engine draws nothing more."""
    drawn = -1.0
    while (now := server.metrics().get(("output_tokens_total", "tiny"), 0.0)) != drawn or not now:
        drawn = now
        time.sleep(0.5)


def test_an_engine_that_waits_for_a_reader_does_not_spin(tmp_path: Path) -> None:
    save_tiny("gemma3", tmp_path, vocab_size=VOCABULARY)
    tiny_tokenizers.byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    request = pb.GenerateRequest(
        prompt=types_pb2.Input(text="The chicken"),
        stop=pb.StopConditions(max_new_tokens=1900, ignore_eos=True),
        logits=pb.LogitsOptions(mode=pb.LOGITS_MODE_FULL),
    )
    with running_server(tmp_path, "--dtype", "float32", "--stalled-stream", "300") as server:
        [engine] = server.engines()
        stub: Any = logits_service_pb2_grpc.LogitsServiceStub(server.channel)
        call = stub.Generate(request, timeout=300)
        next(call)
        until_paused(server)
        before = processor_seconds(engine)
        time.sleep(SECONDS)
        waiting = processor_seconds(engine) - before
        assert waiting < MOST_SECONDS

        before, began = processor_seconds(engine), time.monotonic()
        assert sum(reply.HasField("step") for reply in call) == 1900, "it goes on when it is read"
        busy = processor_seconds(engine) - before
        share = busy / (time.monotonic() - began)
        assert share > 2 * waiting / SECONDS, "negative control: an engine that works would be seen"
