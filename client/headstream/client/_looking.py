"""What happens inside the model, for the sync client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from headstream.client import _look_requests
from headstream.client._attention import AttentionState
from headstream.client._logit_lens import LensState
from headstream.client._trace_stream import TraceStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstream.client._attention import AttentionWeights
    from headstream.client._connection import Connection
    from headstream.client._inputs import Text
    from headstream.client._logit_lens import LogitLens
    from headstream.client._look_requests import AttentionOptions, LensOptions, TraceOptions
    from headstream.client._sites import Site
    from headstream.client._trace import Trace


class Looking:
    """The part of the client that looks inside the model."""

    _rpc: Connection

    def trace(
        self,
        text: Text,
        sites: str | Site | Sequence[str | Site],
        *,
        timeout: float | None = None,
        **options: Unpack[TraceOptions],
    ) -> Trace:
        """What stands at places inside the model while it reads a text.

            trace = client.trace("The chicken", ["resid_post", Site("z", layers=[3], heads=[1])])
            trace["blocks.2.hook_resid_post"]  # [n, d]

        Args:
            text: A string, token ids or a chat.
            sites: Places: names, which mean all layers and heads; `Site`s with chosen ones; or
                hook names of TransformerLens, such as "blocks.2.attn.hook_z".
            positions: [start, end) of the rows wanted; no end: to the last.
            max_new_tokens: Tokens to generate greedily behind the text; their rows come too.
            dtype: How values travel; bfloat16 arrives as float32.
            model: Name of the model; empty for the server's first.
            interventions: Changes to the model: `Add`, `Scale` and `Patch`, made in this order.
            priority: How urgent it is, as of `embed`.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            timeout: Seconds; None for the client's `stream_timeout`.

        Raises:
            StreamBroken: The stream ended early.
            ValueError: An argument is an unknown word.
        """
        return self.trace_stream(text, sites, timeout=timeout, **options).result()

    def trace_stream(
        self,
        text: Text,
        sites: str | Site | Sequence[str | Site],
        *,
        timeout: float | None = None,
        **options: Unpack[TraceOptions],
    ) -> TraceStream:
        """As `trace`, with the generated tokens one by one, as they come.

        Returns:
            An iterator of `TracedToken`. Errors of the call are raised by iterating.

        Raises:
            ValueError: An argument is an unknown word.
        """
        request = _look_requests.trace(text, sites, **options)
        return TraceStream(self._rpc.stream(self._rpc.internals.Trace, request, timeout))

    def attention(
        self, text: Text, *, timeout: float | None = None, **options: Unpack[AttentionOptions]
    ) -> AttentionWeights:
        """How much each token of a text looks at which others.

        Args:
            text: A string, token ids or a chat.
            layers: 1 to L; empty for all.
            heads: From 0; empty for all.
            queries: Positions of the tokens that look; empty for all.
            top_k: Only the keys with the largest weights, with their positions; 0 for all.
            average_heads: The mean over the heads instead of each.
            rollout: Attention rollout over the layers instead of each (Abnar and Zuidema 2020).
            dtype: How weights travel; bfloat16 arrives as float32.
            model: Name of the model; empty for the server's first.
            interventions: As of `trace`.
            priority: How urgent it is, as of `embed`.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            timeout: Seconds; None for the client's `stream_timeout`.

        Raises:
            StreamBroken: The stream ended early.
            ValueError: `dtype` is an unknown word.
        """
        request = _look_requests.attention(text, **options)
        state = AttentionState()
        self._rpc.read(self._rpc.internals.Attention, request, state, timeout)
        return state.result()

    def logit_lens(
        self, text: Text, *, timeout: float | None = None, **options: Unpack[LensOptions]
    ) -> LogitLens:
        """What each layer would predict behind each token, if the model ended there.

        Args:
            text: A string, token ids or a chat.
            layers: 0 the embedding output, i after layer i; empty for all.
            positions: [start, end) of the rows wanted; no end: to the last.
            logits: What comes of each row: "top", the largest with their ids; "full", all [V]; or
                token ids, whose logits come in that order.
            top_logits: How many with "top".
            logprobs: Log-probabilities (natural) instead of raw logits.
            logits_dtype: How they travel; bfloat16 arrives as float32.
            model: Name of the model; empty for the server's first.
            interventions: As of `trace`.
            priority: How urgent it is, as of `embed`.
            skip_special_tokens: Leave out what the tokenizer adds, such as `<bos>`.
            timeout: Seconds; None for the client's `stream_timeout`.

        Raises:
            StreamBroken: The stream ended early.
            Unimplemented: The model gives no logits.
            ValueError: An argument is an unknown word.
        """
        request = _look_requests.logit_lens(text, **options)
        state = LensState()
        self._rpc.read(self._rpc.internals.LogitLens, request, state, timeout)
        return state.result()
