"""Calls under fuzz: several under way at once, and each answer judged."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2

from fuzzed_requests import damaged_call, made_call, replies_of, serialized
from served_methods import METHODS, path

Code = grpc.StatusCode
REASONS = {
    Code.INVALID_ARGUMENT: {"INVALID_FIELD", "MALFORMED_MESSAGE"},
    Code.NOT_FOUND: {"MODEL_NOT_FOUND"},
    Code.UNIMPLEMENTED: {"NOT_SERVED"},
    Code.FAILED_PRECONDITION: {"NO_CHAT_TEMPLATE"},
    Code.RESOURCE_EXHAUSTED: {
        *("REPLY_TOO_LARGE", "SESSION_LIMIT", "QUEUE_FULL"),
        "DEADLINE_TOO_SHORT",  # minutes may be, where the machine is busy with other work
    },
    Code.UNAUTHENTICATED: {"NO_TOKEN", "UNKNOWN_TOKEN"},
    Code.PERMISSION_DENIED: {"SCOPE_MISSING"},
}
"""What docs/operations.md tells, without what only a fault or a full server may bring about."""
INTERNAL_TEXT = re.compile(
    r"Traceback|File \"|\.py\b|/(tmp|home|root|usr)/|<class|object at 0x|"
    r"\b[A-Z]\w*(Error|Exception)\b|headstream\.(server|lookup)"
)
DEADLINE = 300.0  # a call that takes longer hangs, however busy the machine is
AT_ONCE = 8  # calls under way
PAUSE = 0.1  # between good calls: the processor is wanted for the others


Metadata = list[tuple[str, str]]


class _Call(NamedTuple):
    method: str
    messages: list[bytes]
    began: float
    replies: Any


@dataclass
class Fuzzed:
    """What was sent to a service and what came back."""

    channel: grpc.Channel
    metadata: Callable[[random.Random], Metadata] = lambda _: []
    good_metadata: Metadata = field(default_factory=list[tuple[str, str]])
    codes: Counter[str] = field(default_factory=Counter[str])
    longest: float = 0.0
    under_way: deque[_Call] = field(default_factory=deque[_Call])

    @property
    def sent(self) -> int:
        return self.codes.total()

    def fuzz(self, methods: Iterable[str], share: int) -> None:
        """So many calls of each method, half of them made, half damaged."""
        for method in methods:
            rng = random.Random(method)
            well = self.codes["OK"]
            for call in serialized(method):
                self.send(method, call, self.good_metadata)
            self.finish()
            assert self.codes["OK"] == well + len(serialized(method)), "what is damaged is not good"
            for number in range(share):
                call = made_call(rng, method) if number % 2 else damaged_call(rng, method)
                self.send(method, call, self.metadata(rng))
            self.finish()

    def send(self, method: str, messages: list[bytes], metadata: Metadata) -> None:
        """Begin a call, and while there are too many judge the oldest."""
        replies = self._start(method, messages, metadata)
        self.under_way.append(_Call(method, messages, time.monotonic(), replies))
        self.finish(AT_ONCE - 1)

    def finish(self, most: int = 0) -> None:
        """Judge the oldest calls until no more than so many are under way."""
        while len(self.under_way) > most:
            self._judge(self.under_way.popleft())

    def _start(self, method: str, messages: list[bytes], metadata: Metadata) -> Any:
        options: Any = {"timeout": DEADLINE, "metadata": metadata}
        where = f"/{path(method)}"
        if METHODS[method].client_streaming:
            both: Any = self.channel.stream_stream(where)
            return both(iter(messages), **options)
        [data] = messages
        if METHODS[method].server_streaming:
            stream: Any = self.channel.unary_stream(where)
            return stream(data, **options)
        unary: Any = self.channel.unary_unary(where)
        return unary.future(data, **options)

    def _judge(self, call: _Call) -> None:
        replies: list[bytes] = []
        try:
            if METHODS[call.method].server_streaming:
                replies.extend(call.replies)
            else:
                replies.append(call.replies.result())
        except grpc.RpcError as error:
            self._judge_error(call, error)
        else:
            self.codes["OK"] += 1
        for reply in replies_of(call.method, replies):
            _judge_reply(reply, call.messages)
        self.longest = max(self.longest, time.monotonic() - call.began)

    def _judge_error(self, call: _Call, error: Any) -> None:
        code, text = error.code(), error.details()
        what = f"{call.method} {[each.hex() for each in call.messages]}: {code.name}: {text}"
        assert code in REASONS, what
        trailers = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info), what
        assert info.reason in REASONS[code], what
        _check_text(text, call.messages)
        self.codes[code.name] += 1


@contextmanager
def asked_beside(ask: Callable[[], object]) -> Generator[list[bool]]:
    """Asked all the time; whether each answer was the first one."""
    equal: list[bool] = []
    ending = threading.Event()
    expected = ask()

    def go_on() -> None:
        while not ending.wait(PAUSE):
            try:
                equal.append(ask() == expected)
            except (grpc.RpcError, AssertionError):
                equal.append(False)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield equal
    finally:
        ending.set()
        thread.join()


def _judge_reply(reply: Any, messages: list[bytes]) -> None:
    """Errors of single texts, or of single requests of a stream, keep to the same rules."""
    told = getattr(reply, "error_message", "")
    assert "internal error" not in told, [each.hex() for each in messages]
    _check_text(told, messages)
    answers = getattr(reply, "answers", [])
    for result in [*getattr(reply, "results", []), *(answer.result for answer in answers)]:
        if result.HasField("error"):
            codes = {code.value[0]: reasons for code, reasons in REASONS.items()}
            assert result.error.reason in codes.get(result.error.code, set()), result.error
            _check_text(result.error.message, messages)


def _check_text(text: str, messages: list[bytes]) -> None:
    """It tells nothing that the caller has not said."""
    found = INTERNAL_TEXT.search(text)
    assert not found or found.group().encode() in b"".join(messages), text
