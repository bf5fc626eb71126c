# ruff: noqa: N818 - the names say what happened; the tree below says that they are errors
"""Everything a request can fail with, each with its gRPC code and the reason told to programs.

    ServiceError
    ├── InvalidRequest      INVALID_ARGUMENT     INVALID_FIELD       names the field and the limit
    │   └── NoChatTemplate  FAILED_PRECONDITION  NO_CHAT_TEMPLATE
    ├── MalformedRequest    INVALID_ARGUMENT     MALFORMED_MESSAGE
    ├── ModelNotFound       NOT_FOUND            MODEL_NOT_FOUND
    ├── NotServed           UNIMPLEMENTED        NOT_SERVED
    ├── ModelLoading        UNAVAILABLE          MODEL_LOADING       before any output
    ├── ReplyTooLarge       RESOURCE_EXHAUSTED   REPLY_TOO_LARGE
    ├── QueueFull           RESOURCE_EXHAUSTED   QUEUE_FULL          says when to try again
    ├── TooLate             RESOURCE_EXHAUSTED   DEADLINE_TOO_SHORT  says when to try again
    ├── SessionLimit        RESOURCE_EXHAUSTED   SESSION_LIMIT       names the limit
    ├── SlowConsumer        RESOURCE_EXHAUSTED   SLOW_CONSUMER
    ├── AccessRefused       PERMISSION_DENIED    SCOPE_MISSING       and others: access/refusal.py
    ├── DeadlineExceeded    DEADLINE_EXCEEDED    DEADLINE_EXCEEDED
    ├── SessionExpired      DEADLINE_EXCEEDED    SESSION_EXPIRED
    ├── EngineUnavailable   UNAVAILABLE          ENGINE_UNAVAILABLE  before any output
    ├── Draining            UNAVAILABLE          DRAINING            before any output
    ├── StreamCut           ABORTED              STREAM_CUT          after output began
    └── EngineFault         INTERNAL             INTERNAL            fixed text, details in the log
    EngineStartError                             at start, never an answer to a request
    ConfigError                                  at start, never an answer to a request

What the lookup service answers too stands in `access/failure.py`.
Clients may retry UNAVAILABLE at once and RESOURCE_EXHAUSTED after the pause it names.
"""

from __future__ import annotations

import grpc

from headstream.access.failure import (
    AccessRefused,
    InvalidRequest,
    MalformedRequest,
    ServiceError,
)

__all__ = [
    "AccessRefused",
    "ConfigError",
    "DeadlineExceeded",
    "Draining",
    "EngineFault",
    "EngineStartError",
    "EngineUnavailable",
    "InvalidRequest",
    "MalformedRequest",
    "ModelLoading",
    "ModelNotFound",
    "NoChatTemplate",
    "NotServed",
    "QueueFull",
    "ReplyTooLarge",
    "ServiceError",
    "SessionExpired",
    "SessionLimit",
    "SlowConsumer",
    "StreamCut",
    "TooLate",
]

Code = grpc.StatusCode


class EngineStartError(Exception):
    """The engine could not start; the message says why."""


class ConfigError(Exception):
    """A setting is wrong; the message names it."""


class ModelNotFound(ServiceError):
    """No model of that name is served."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class NotServed(ServiceError):
    """The method or the field is part of the contract but not of this server."""

    code = Code.UNIMPLEMENTED
    reason = "NOT_SERVED"


class ModelLoading(ServiceError):
    """The model's weights are still being loaded; another replica may have them."""

    code = Code.UNAVAILABLE
    reason = "MODEL_LOADING"


class NoChatTemplate(InvalidRequest):
    """The checkpoint brings no template for chats."""

    code = Code.FAILED_PRECONDITION
    reason = "NO_CHAT_TEMPLATE"

    def __init__(self, field: str) -> None:
        super().__init__(field, "the model has no chat template; send text or token_ids")


class ReplyTooLarge(ServiceError):
    """The tensors asked for exceed the budget of a reply."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "REPLY_TOO_LARGE"

    def __init__(self, num_bytes: int, limit: int, what: str = "the tensors of the reply") -> None:
        super().__init__(f"{what} would take {num_bytes} bytes; the limit is {limit}")


class QueueFull(ServiceError):
    """Too much is waiting; nothing of this request was done."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLate(ServiceError):
    """By what waits and how fast it goes, the deadline would pass before its turn came."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "DEADLINE_TOO_SHORT"

    def __init__(self, wait_s: float, left_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"its turn would come in about {wait_s:.1f} s, and the deadline is in {left_s:.1f} s;"
            " try again later"
        )
        self.retry_after_s = retry_after_s


class SessionLimit(ServiceError):
    """A decoding session would hold too much; the message names the limit."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "SESSION_LIMIT"


class SlowConsumer(ServiceError):
    """The caller does not read its stream."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "SLOW_CONSUMER"

    def __init__(self, stalled_s: float) -> None:
        super().__init__(f"the stream was not read for {stalled_s:g} s")


class DeadlineExceeded(ServiceError):
    """The server's own deadline for calls that bring none."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"not done within {deadline_s:g} s; send a deadline to allow more")


class SessionExpired(ServiceError):
    """A decoding session was not used for too long, or lasted too long."""

    code = Code.DEADLINE_EXCEEDED
    reason = "SESSION_EXPIRED"

    def __init__(self, why: str) -> None:
        super().__init__(f"the session ends: {why}")


class EngineUnavailable(ServiceError):
    """The engine does not answer now; another replica may."""

    code = Code.UNAVAILABLE
    reason = "ENGINE_UNAVAILABLE"


class Draining(ServiceError):
    """The server is about to stop and takes no new work."""

    code = Code.UNAVAILABLE
    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("the server is draining; try another replica")


class StreamCut(ServiceError):
    """The server stopped before the stream ended: go on elsewhere from the last event read."""

    code = Code.ABORTED
    reason = "STREAM_CUT"

    def __init__(self) -> None:
        super().__init__("the server stops; go on elsewhere from the last event read")


class EngineFault(ServiceError):
    """Something broke that is not the caller's doing. Its own text is for the log only."""

    code = Code.INTERNAL
    reason = "INTERNAL"
