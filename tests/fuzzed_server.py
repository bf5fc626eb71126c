"""A server under fuzz: what it is sent, how each answer is judged, what it holds at the end."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from hypothesis import strategies as st

from fuzzed_requests import DECODER, ENCODER, METHODS, good, replies_of
from server_process import Server, running_server

Code = grpc.StatusCode
REASONS = {
    Code.INVALID_ARGUMENT: {"INVALID_FIELD", "MALFORMED_MESSAGE"},
    Code.NOT_FOUND: {"MODEL_NOT_FOUND"},
    Code.UNIMPLEMENTED: {"NOT_SERVED"},
    Code.FAILED_PRECONDITION: {"NO_CHAT_TEMPLATE"},
    Code.RESOURCE_EXHAUSTED: {"REPLY_TOO_LARGE", "SESSION_LIMIT", "QUEUE_FULL"},
    Code.UNAUTHENTICATED: {"NO_TOKEN", "UNKNOWN_TOKEN"},
    Code.PERMISSION_DENIED: {"SCOPE_MISSING"},
}
"""What docs/operations.md tells, without what only a fault or a full server may bring about."""
INTERNAL_TEXT = re.compile(
    r"Traceback|File \"|\.py\b|/(tmp|home|root|usr)/|<class|object at 0x|"
    r"\b[A-Z]\w*(Error|Exception)\b|headstream\.server"
)
DEADLINE = 60.0
CROWD = 4  # calls at once
FLAGS = ["--dtype", "float32", "--max-new-tokens", "24", "--kv-cache-bytes", str(32 << 20)]


@dataclass
class Fuzzed:
    """A server, what was sent to it and what came back."""

    server: Server
    log: Path
    metadata: st.SearchStrategy[list[tuple[str, str]]]
    channel: grpc.Channel
    good_metadata: list[tuple[str, str]]
    codes: Counter[str] = field(default_factory=Counter[str])
    longest: float = 0.0

    def send_all(self, method: str, calls: list[tuple[list[bytes], Any]]) -> None:
        """Several calls at once, each judged."""
        began = time.monotonic()
        under_way = [self._start(method, messages, metadata) for messages, metadata in calls]
        for (messages, _), call in zip(calls, under_way, strict=True):
            replies: list[bytes] = []
            try:
                if METHODS[method].server_streaming:
                    replies.extend(call)
                else:
                    replies.append(call.result())
            except grpc.RpcError as error:
                self._judge_error(method, messages, error)
            else:
                self.codes["OK"] += 1
            for reply in replies_of(method, replies):
                _judge_reply(reply)
        self.longest = max(self.longest, time.monotonic() - began)

    def _start(self, method: str, messages: list[bytes], metadata: Any) -> Any:
        path = f"/headstream.v1.{method}"
        options: Any = {"timeout": DEADLINE, "metadata": metadata}
        if METHODS[method].client_streaming:
            both: Any = self.channel.stream_stream(path)
            return both(iter(messages), **options)
        [data] = messages
        if METHODS[method].server_streaming:
            stream: Any = self.channel.unary_stream(path)
            return stream(data, **options)
        unary: Any = self.channel.unary_unary(path)
        return unary.future(data, **options)

    def _judge_error(self, method: str, messages: list[bytes], error: Any) -> None:
        code, text = error.code(), error.details()
        what = f"{method} {[each.hex() for each in messages]}: {code.name}: {text}"
        assert code in REASONS, what
        trailers = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info), what
        assert info.reason in REASONS[code], what
        found = INTERNAL_TEXT.search(text)
        assert not found or found.group().encode() in b"".join(messages), what
        self.codes[code.name] += 1

    @property
    def sent(self) -> int:
        return self.codes.total()


def _judge_reply(reply: Any) -> None:
    """Errors of single texts keep to the same rules."""
    answers = getattr(reply, "answers", [])
    for result in [*getattr(reply, "results", []), *(answer.result for answer in answers)]:
        if result.HasField("error"):
            codes = {code.value[0]: reasons for code, reasons in REASONS.items()}
            assert result.error.reason in codes.get(result.error.code, set()), result.error
            assert not INTERNAL_TEXT.search(result.error.message), result.error


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
    equal: list[bool] = []
    ending = threading.Event()

    def ask() -> None:
        with grpc.insecure_channel(address) as channel:
            while not ending.wait(0.02):
                try:
                    equal.append(good_answers(channel, metadata) == expected)
                except grpc.RpcError:
                    equal.append(False)

    with grpc.insecure_channel(address) as channel:
        expected = good_answers(channel, metadata)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield equal
    finally:
        ending.set()
        thread.join()


@contextmanager
def fuzzed_server(
    checkpoints: list[Path],
    home: Path,
    *flags: str,
    metadata: st.SearchStrategy[Any] = st.just([]),  # noqa: B008 - strategies are values
    good_metadata: list[tuple[str, str]] | None = None,
) -> Generator[Fuzzed]:
    """Judged once more at its end: the same processes, nothing held, no fault in the log."""
    decoder, encoder = checkpoints
    log = home / "log"
    more = ["--models", f"{ENCODER}={encoder}", "--log-format", "json", *FLAGS, *flags]
    with (
        running_server(decoder, *more, name=DECODER, stderr=log) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        engines = {process.pid for process in server.engines()}
        yield Fuzzed(server, log, metadata, channel, good_metadata or [])
        assert server.process.poll() is None
        assert {process.pid for process in server.engines()} == engines
        nothing_is_held(server)
        labels_are_few(server)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line for line in lines if line["event"] in {"fault", "sequence failed"}] == []
    assert "Traceback" not in log.read_text()


def labels_are_few(server: Server) -> None:
    """No name that a request brought has become a series."""
    values = server.metrics()
    methods = {key[2] for key in values if key[0] == "requests_total"}
    own = {f"headstream.v1.{method}" for method in METHODS}
    assert methods <= own | {
        "unknown",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
    }
    models = {key[1] for key in values if key[0] == "input_tokens_total"}
    assert models <= {DECODER, ENCODER}


def all_are_counted(fuzzed: Fuzzed, num_good: int) -> None:
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
