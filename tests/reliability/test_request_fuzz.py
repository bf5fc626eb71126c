"""Whatever is sent to a real server, it answers within the closed table of codes, and lives on."""

from __future__ import annotations

import json
import random
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
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from broken_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    conversation,
    frame,
    grpc_message,
    headers,
    say,
)
from fuzzed_requests import (
    DECODER,
    ENCODER,
    METHODS,
    damaged_calls,
    good,
    made_calls,
    replies_of,
)
from outcome import Table
from server_process import Server, running_server, save_tiny_model
from tiny_models import save_tiny
from tiny_tokenizers import word_piece_tokenizer
from tokens_of_callers import bearer, make_token

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A decoder and an encoder."""
    encoder = save_tiny("bert", tmp_path_factory.mktemp("encoder"))
    word_piece_tokenizer().save(str(encoder / "tokenizer.json"))
    return [save_tiny_model(tmp_path_factory.mktemp("decoder")), encoder]


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
    counted = Counter[str]()
    for key, value in fuzzed.server.metrics().items():
        if key[0] == "requests_total":
            counted[key[1]] += int(value)
    expected = fuzzed.codes + Counter({"OK": num_good})
    assert counted == expected


def nothing_is_held(server: Server) -> None:
    """Slots, blocks, places in the queue and calls are free again."""
    names = {"sequences_running", "queue_depth", "queue_tokens", "kv_blocks_used", "stream_items"}
    names |= {"requests_open"}
    end = time.monotonic() + 60
    while held := {k: v for k, v in server.metrics().items() if k[0] in names and v}:
        assert time.monotonic() < end, held
        time.sleep(0.1)


def fuzz(fuzzed: Fuzzed, method: str, calls: st.SearchStrategy[list[bytes]], count: int) -> None:
    """So many calls of a method, at least."""
    before = fuzzed.sent

    @given(st.lists(st.tuples(calls, fuzzed.metadata), min_size=CROWD, max_size=CROWD))
    @settings(
        max_examples=-(-count // CROWD),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(crowd: list[tuple[list[bytes], Any]]) -> None:
        fuzzed.send_all(method, crowd)

    send()
    assert fuzzed.sent > before or not count


def fuzz_all(fuzzed: Fuzzed, share: int) -> None:
    """``share`` calls of each method, half of them made, half damaged."""
    for method in METHODS:
        messages = [each.SerializeToString() for each in good(method)]
        well = fuzzed.codes["OK"]
        fuzzed.send_all(method, [(messages, fuzzed.good_metadata)])
        assert fuzzed.codes["OK"] == well + 1, "what is damaged next is not good"
        fuzz(fuzzed, method, made_calls(method), share // 2)
        fuzz(fuzzed, method, damaged_calls(method), share // 2)


def test_every_method(checkpoints: list[Path], tmp_path: Path, table: Table, long: bool) -> None:
    share = 2800 if long else 140
    with fuzzed_server(checkpoints, tmp_path) as fuzzed:
        with good_requests(fuzzed.server.address, []) as equal:
            fuzz_all(fuzzed, share)
        all_are_counted(fuzzed, 2 * (1 + len(equal)))
    _record(table, "requests made and damaged", fuzzed, equal)
    assert fuzzed.codes["OK"] > fuzzed.sent / 10, "nothing gets through"
    assert fuzzed.codes["INVALID_ARGUMENT"] > fuzzed.sent / 10


def test_every_method_where_tokens_are_asked_for(
    checkpoints: list[Path], tmp_path: Path, table: Table, long: bool
) -> None:
    share = 560 if long else 28
    entries = {name: make_token(name, *scopes) for name, scopes in _TENANTS.items()}
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("\n".join(entry for _, entry in entries.values()))
    whole, narrow = ([bearer(token)] for token, _ in entries.values())
    odd = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
    odd_metadata = odd.map(lambda text: [("authorization", text), ("x-request-id", text)])
    metadata: st.SearchStrategy[Any] = st.one_of(
        st.just(whole), st.just(narrow), st.just([]), odd_metadata
    )
    flags = ("--tokens", str(tokens))
    with fuzzed_server(
        checkpoints, tmp_path, *flags, metadata=metadata, good_metadata=whole
    ) as fuzzed:
        with good_requests(fuzzed.server.address, whole) as equal:
            fuzz_all(fuzzed, share)
        all_are_counted(fuzzed, 2 * (1 + len(equal)))
    _record(table, "requests with and without tokens", fuzzed, equal)
    refused = fuzzed.codes["UNAUTHENTICATED"] + fuzzed.codes["PERMISSION_DENIED"]
    assert refused > fuzzed.sent / 4
    assert fuzzed.codes["OK"] > 0


_TENANTS = {"whole": (), "narrow": ("--scope", "model")}


def test_broken_frames(checkpoints: list[Path], tmp_path: Path, table: Table, long: bool) -> None:
    count = 4000 if long else 200
    rng = random.Random(20261127)
    with (
        fuzzed_server(checkpoints, tmp_path) as fuzzed,
        good_requests(fuzzed.server.address, []) as equal,
    ):
        answered = 0
        for _ in range(count):
            method = rng.choice(list(METHODS))
            data = conversation(
                rng, f"/headstream.v1.{method}", good(method)[0].SerializeToString()
            )
            heard = say(fuzzed.server.address, data)
            answered += bool(heard)
            assert not INTERNAL_TEXT.search(heard.decode("latin-1")), data.hex()
        _wait_for_no_connections(fuzzed.server)
    table.add(
        f"broken HTTP/2: {len(equal):,} good calls beside it",
        count,
        sum(equal),
        equal.count(False),
    )
    assert answered > count / 2
    assert equal
    assert all(equal)


def test_a_path_that_is_no_text(checkpoints: list[Path], tmp_path: Path) -> None:
    """It ends the loop in which grpc.aio takes calls, which begins anew."""
    path = "/headstream.v1.Emb\xe5ddingsService/Embed"
    data = PREFACE + frame(SETTINGS)
    data += frame(HEADERS, headers(path), stream=1, flags=END_HEADERS)
    data += frame(DATA, grpc_message(b""), stream=1, flags=END_STREAM)
    log = tmp_path / "log"
    with running_server(checkpoints[0], *FLAGS, name=DECODER, stderr=log) as server:
        with grpc.insecure_channel(server.address) as channel:
            expected = good_answers(channel, [])
        for number in range(1, 4):
            say(server.address, data)
            end = time.monotonic() + 60
            while log.read_text().count("has ended by itself") < number:
                assert time.monotonic() < end, "negative control: the loop has not ended"
                time.sleep(0.05)
            with grpc.insecure_channel(server.address) as channel:
                grpc.channel_ready_future(channel).result(60)
                assert good_answers(channel, []) == expected
        server.process.terminate()
        assert server.process.wait(60) == 0


def _wait_for_no_connections(server: Server) -> None:
    """Those of the callers that left are closed; the good one's may be there."""
    port = int(server.address.rpartition(":")[2])
    end = time.monotonic() + 60
    while (
        len(
            [
                each
                for each in psutil.Process(server.process.pid).net_connections("tcp")
                if each.laddr.port == port and each.status != psutil.CONN_LISTEN
            ]
        )
        > 2
    ):
        assert time.monotonic() < end, "connections are kept"
        time.sleep(0.2)


def _record(table: Table, what: str, fuzzed: Fuzzed, equal: list[bool]) -> None:
    codes = ", ".join(f"{count:,} {code}" for code, count in fuzzed.codes.most_common())
    table.add(
        f"{what} ({codes}); {len(equal):,} good calls beside them",
        fuzzed.sent,
        fuzzed.sent + sum(equal),
        equal.count(False),
    )
    assert fuzzed.longest < DEADLINE + 1
    assert equal
    assert all(equal)


def test_the_judges_see_what_they_look_for() -> None:
    """Negative control."""
    for text in (
        "Unexpected <class 'ValueError'>: secret",
        'File "/work/server.py", line 3',
        "KeyError: 'x'",
        "/tmp/model/config.json",
    ):
        assert INTERNAL_TEXT.search(text)
    assert not INTERNAL_TEXT.search("prompt: 3 tokens; the limit is 2")
