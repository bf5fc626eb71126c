# ruff: noqa: ASYNC109 - `timeout` is the deadline of the call, which the server is told too
"""What happens inside the model, for the async client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from headstream.client import _look_requests
from headstream.client._attention import AttentionState
from headstream.client._logit_lens import LensState
from headstream.client._trace_stream import AsyncTraceStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstream.client._async_connection import AsyncConnection
    from headstream.client._attention import AttentionWeights
    from headstream.client._inputs import Text
    from headstream.client._logit_lens import LogitLens
    from headstream.client._look_requests import AttentionOptions, LensOptions, TraceOptions
    from headstream.client._sites import Site
    from headstream.client._trace import Trace


class AsyncLooking:
    """The part of the async client that looks inside the model."""

    _rpc: AsyncConnection

    async def trace(
        self,
        text: Text,
        sites: str | Site | Sequence[str | Site],
        *,
        timeout: float | None = None,
        **options: Unpack[TraceOptions],
    ) -> Trace:
        """What stands at places inside the model while it reads a text. As `Client.trace`."""
        return await self.trace_stream(text, sites, timeout=timeout, **options).result()

    def trace_stream(
        self,
        text: Text,
        sites: str | Site | Sequence[str | Site],
        *,
        timeout: float | None = None,
        **options: Unpack[TraceOptions],
    ) -> AsyncTraceStream:
        """As `trace`, with the generated tokens one by one. As `Client.trace_stream`."""
        request = _look_requests.trace(text, sites, **options)
        rpc = self._rpc
        return AsyncTraceStream(rpc.stream(rpc.internals.Trace, request, timeout), rpc.connect)

    async def attention(
        self, text: Text, *, timeout: float | None = None, **options: Unpack[AttentionOptions]
    ) -> AttentionWeights:
        """How much each token of a text looks at which others. As `Client.attention`."""
        request = _look_requests.attention(text, **options)
        state = AttentionState()
        await self._rpc.read(self._rpc.internals.Attention, request, state, timeout)
        return state.result()

    async def logit_lens(
        self, text: Text, *, timeout: float | None = None, **options: Unpack[LensOptions]
    ) -> LogitLens:
        """What each layer would predict behind each token. As `Client.logit_lens`."""
        request = _look_requests.logit_lens(text, **options)
        state = LensState()
        await self._rpc.read(self._rpc.internals.LogitLens, request, state, timeout)
        return state.result()
