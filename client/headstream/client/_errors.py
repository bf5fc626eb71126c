# ruff: noqa: N818 - named after the statuses of gRPC; the tree says that they are errors
"""Everything that can go wrong with a call.

HeadstreamError
├── EmbedError                 some texts of an `embed` could not be embedded
└── RpcError                   the call failed; `code` says how, in gRPC's terms
    ├── InvalidArgument        INVALID_ARGUMENT: the request is wrong; `field` says where
    ├── FailedPrecondition     FAILED_PRECONDITION: not now, such as a model still loading
    ├── NotFound               NOT_FOUND: no such model
    ├── Unimplemented          UNIMPLEMENTED: this server or model cannot do it
    ├── Unauthenticated        UNAUTHENTICATED: a token is missing or wrong
    ├── PermissionDenied       PERMISSION_DENIED: the token does not allow it
    ├── ResourceExhausted      RESOURCE_EXHAUSTED: too busy or too much; see `retry_after`
    ├── DeadlineExceeded       DEADLINE_EXCEEDED: the timeout passed
    ├── Unavailable            UNAVAILABLE: no healthy server; nothing was done
    ├── Cancelled              CANCELLED: the call was ended on the way
    ├── Internal               INTERNAL: a fault of the server; its log has the `request_id`
    └── StreamBroken           a stream ended without its end event; `index` says where
        ├── Aborted            ABORTED: the server stopped after output had begun
        └── NotResumable       it was to be taken up, and no server computes the same
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class HeadstreamError(Exception):
    """Base of all errors of this package."""


@dataclass(frozen=True, slots=True)
class FailedItem:
    """Why one text of many could not be embedded."""

    index: int  # position in the list of texts
    reason: str  # a word for programs, such as TEXT_TOO_LONG
    message: str  # what was wrong, naming the limit
    passing: bool = False  # not the text's doing: it may go well another time


class EmbedError(HeadstreamError):
    """Some texts could not be embedded; `items` lists them. The others were, but are not kept."""

    def __init__(self, items: Sequence[FailedItem]) -> None:
        self.items = tuple(items)
        lines = [f"text {item.index}: {item.message} [{item.reason}]" for item in self.items[:5]]
        if len(self.items) > len(lines):
            lines.append(f"... and {len(self.items) - len(lines)} more")
        super().__init__("; ".join(lines))


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a server says about a failed call."""

    code: str = "UNKNOWN"  # gRPC's name of the status
    message: str = ""  # for people
    reason: str = ""  # a word for programs, such as QUEUE_FULL
    field: str = ""  # path of the wrong field of the request
    retry_after: float | None = None  # seconds to wait before another try, where the server says
    request_id: str = ""  # the server's id of the request, also in its logs


class RpcError(HeadstreamError):
    """A call that failed, with what the server said about it."""

    def __init__(self, details: ErrorDetails) -> None:
        self.details = details
        super().__init__(details.message or details.code)

    @property
    def code(self) -> str:
        """The name of the status in gRPC, such as `NOT_FOUND`."""
        return self.details.code

    @property
    def reason(self) -> str:
        """A word for programs, such as `QUEUE_FULL`; empty where the server gave none."""
        return self.details.reason

    @property
    def request_id(self) -> str:
        """The server's id of the request, also in its logs; empty where it never got there."""
        return self.details.request_id

    def __str__(self) -> str:
        said = f"{self.code}: {self.details.message}" if self.details.message else self.code
        return f"{said} (request {self.request_id})" if self.request_id else said


class InvalidArgument(RpcError):
    """The request is wrong: a limit, a bad value, an empty text. Trying again will not help."""

    @property
    def field(self) -> str:
        """Path of the wrong field, such as `sampling.top_p`; empty where the server gave none."""
        return self.details.field


class FailedPrecondition(RpcError):
    """The server is not in the state the request needs, such as a model still loading."""


class NotFound(RpcError):
    """The server has no such model."""


class Unimplemented(RpcError):
    """The server, or this model, cannot do this; `ModelInfo.capabilities` tells beforehand."""


class Unauthenticated(RpcError):
    """The token is missing or wrong."""


class PermissionDenied(RpcError):
    """The token does not allow this."""


class ResourceExhausted(RpcError):
    """The queue is full, a quota is used up, or a message is too big."""

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before another try; None where the server does not say."""
        return self.details.retry_after


class DeadlineExceeded(RpcError):
    """The timeout passed before the answer was complete."""


class Unavailable(RpcError):
    """No healthy server was reached, so nothing was done."""


class Cancelled(RpcError):
    """The call was ended on the way, by the server or a proxy."""


class Internal(RpcError):
    """A fault of the server. Its log has the cause under the `request_id`."""


class StreamBroken(RpcError):
    """A stream ended without its end event: what came is right, but it is not all."""

    def __init__(self, details: ErrorDetails, index: int) -> None:
        super().__init__(details)
        self.index = index  # what the next part would have been: its step, or its row

    def __str__(self) -> str:
        return f"stream broken at index {self.index}: {super().__str__()}"


class Aborted(StreamBroken):
    """The server stopped, as in a restart, after output had begun."""


class NotResumable(StreamBroken):
    """A broken stream cannot be taken up: what would come is not what would have come."""
