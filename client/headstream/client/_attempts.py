"""What is asked for when the stream of a continuation breaks, and how often. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstream.client import _status
from headstream.client._errors import StreamBroken, Unavailable
from headstream.v1 import logits_service_pb2 as pb
from headstream.v1 import types_pb2

if TYPE_CHECKING:
    from headstream.client._errors import RpcError
    from headstream.client._generation_state import GenerationState

_FIRST_PAUSE = 0.1  # seconds, doubled with every further attempt
_LONGEST_PAUSE = 2.0


class Attempts:
    """A request, and how often it may be taken up where a stream broke."""

    def __init__(self, request: pb.GenerateRequest, resume: int) -> None:
        """`resume`: how often."""
        self.request = request
        self.pause = 0.0  # seconds to wait before the next request
        self._left = resume

    def next_request(self, state: GenerationState, error: RpcError) -> pb.GenerateRequest | None:
        """The request that goes on; None: `error` is the end.

        The last token that was told is generated again. So it shows whether the other stream is
        the same, and no continuation is taken up that had all of its tokens and lacked its end.

        Raises:
            NotResumable: The bits would not be those of the stream that broke.
        """
        if self._left <= 0 or not _may_pass(error):
            return None
        self._left -= 1
        self.pause = min(2 * self.pause or _FIRST_PAUSE, _LONGEST_PAUSE)
        again = pb.GenerateRequest()
        again.CopyFrom(self.request)
        if state.fingerprint is None:  # nothing was told yet
            return again
        if not state.fingerprint.batch_invariant:
            message = "the server does not give the same bits twice"
            raise _status.not_resumable(message, state.reached or 0) from error
        again.model = state.fingerprint.model
        again.prompt.CopyFrom(types_pb2.Input(token_ids=types_pb2.TokenIds(ids=state.prompt_ids)))
        again.sampling.seed = state.seed or 0
        again.generated_token_ids.extend(state.rewind())
        return again


def _may_pass(error: RpcError) -> bool:
    """Whether another server, or this one later, may do better."""
    at_fault = error.code == "INTERNAL" and error.reason  # the server itself says so
    passing = isinstance(error, (StreamBroken, Unavailable)) or _status.was_reset(error.details)
    return passing and not at_fault
