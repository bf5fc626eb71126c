"""A server under fuzz: what is asked beside, what it holds at the end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fuzzed_calls import DEADLINE, Fuzzed, Metadata, asked_beside
from fuzzed_requests import replies_of
from fuzzed_values import DECODER, ENCODER
from good_calls import good
from served_methods import SERVER, path
from server_process import Server, running_server

FLAGS = ["--dtype", "float32", "--max-new-tokens", "24", "--kv-cache-bytes", str(32 << 20)]


@dataclass
class FuzzedServer(Fuzzed):
    """And where it is."""

    server: Server = field(kw_only=True)


def good_answers(channel: grpc.Channel, metadata: Any) -> list[bytes]:
    """The bytes that matter of a stream of full rows and of a vector."""
    stream: Any = channel.unary_stream("/headstream.v1.LogitsService/Generate")
    [request] = good("LogitsService/Generate")
    request.sampling.seed = 3
    data = list(stream(request.SerializeToString(), timeout=DEADLINE, metadata=metadata))
    events: list[Any] = list(replies_of("LogitsService/Generate", data))
    rows = [each.step.SerializeToString() for each in events if each.HasField("step")]
    assert len(rows) == 4
    unary: Any = channel.unary_unary("/headstream.v1.EmbeddingsService/Embed")
    [request] = good("EmbeddingsService/Embed")
    data = [unary(request.SerializeToString(), timeout=DEADLINE, metadata=metadata)]
    reply: Any
    [reply] = replies_of("EmbeddingsService/Embed", data)
    vectors: bytes = reply.results[0].embedding.vectors.data
    return [*rows, vectors]


@contextmanager
def good_requests(address: str, metadata: Any) -> Generator[list[bool]]:
    """Asked all the time; whether each answer was bit by bit the first one."""
    with (
        grpc.insecure_channel(address) as channel,
        asked_beside(lambda: good_answers(channel, metadata)) as equal,
    ):
        yield equal


@contextmanager
def fuzzed_server(
    checkpoints: list[Path],
    home: Path,
    *flags: str,
    metadata: Callable[[random.Random], Metadata] = lambda _: [],
    good_metadata: Metadata | None = None,
) -> Generator[FuzzedServer]:
    """Judged once more at its end: the same processes, nothing held, no fault in the log."""
    decoder, encoder = checkpoints
    log = home / "log"
    more = ["--models", f"{ENCODER}={encoder}", "--open-inference", "--log-format", "json"]
    with (
        running_server(decoder, *more, *FLAGS, *flags, name=DECODER, stderr=log) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        engines = {process.pid for process in server.engines()}
        yield FuzzedServer(channel, metadata, good_metadata or [], server=server)
        assert server.process.poll() is None
        assert {process.pid for process in server.engines()} == engines
        nothing_is_held(server)
        labels_are_few(server)
    no_fault_is_logged(log)


def no_fault_is_logged(log: Path) -> None:
    text = log.read_text(errors="replace")  # gRPC's own lines may quote what a caller has sent
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert lines
    faults = [line for line in lines if line["event"] in {"fault", "sequence failed"}]
    assert not faults, faults
    assert "Traceback" not in text


def labels_are_few(server: Server) -> None:
    """No name that a request brought has become a series."""
    values = server.metrics()
    methods = {key[2] for key in values if key[0] == "requests_total"}
    own = {path(method) for method in SERVER}
    assert methods <= own | {
        "unknown",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
    }
    models = {key[1] for key in values if key[0] == "input_tokens_total"}
    assert models <= {DECODER, ENCODER}


def all_are_counted(fuzzed: FuzzedServer, num_good: int) -> None:
    """Every call has ended once, with the code that its caller got."""
    expected = fuzzed.codes + Counter({"OK": num_good})
    end = time.monotonic() + 10
    while (counted := _counted(fuzzed.server)) != expected:  # a caller has its code a little sooner
        assert time.monotonic() < end, (counted, expected)
        time.sleep(0.1)


def _counted(server: Server) -> Counter[str]:
    counted = Counter[str]()
    for key, value in server.metrics().items():
        if key[0] == "requests_total":
            counted[key[1]] += int(value)
    return counted


def nothing_is_held(server: Server) -> None:
    """Slots, blocks, places in the queue and calls are free again."""
    names = {"sequences_running", "queue_depth", "queue_tokens", "kv_blocks_used", "stream_items"}
    names |= {"requests_open"}
    end = time.monotonic() + 60
    while held := {k: v for k, v in server.metrics().items() if k[0] in names and v}:
        assert time.monotonic() < end, held
        time.sleep(0.1)
