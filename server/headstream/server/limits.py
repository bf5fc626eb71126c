"""The limits of one model, resolved from the settings and from what its engine can hold."""

from __future__ import annotations

from dataclasses import dataclass

from headstream.server.config import Settings
from headstream.server.engine.messages import Ready

BYTES_PER_TOKEN = 8
"""Bytes of text allowed per token of context: real tokens average about four."""

MAX_SITES = 256
"""Sites of one Trace: more than a model has kinds of, each with some layers of its own."""

STEP_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens of a step where the settings do not say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request to this model may ask for."""

    max_model_len: int
    d_vocab: int
    d_model: int
    n_layers: int
    max_text_bytes: int
    max_inputs: int
    max_stream_items: int
    max_new_tokens: int
    max_top_k: int
    max_reply_bytes: int
    max_message_bytes: int
    max_continuations: int
    max_queued_requests: int
    max_queued_tokens: int
    max_branches: int
    max_session_tokens: int
    max_all_session_tokens: int
    session_idle_seconds: float
    session_seconds: float
    internals: bool  # the inside of the model may be looked at and changed
    max_sites: int  # of one Trace
    max_look_bytes: int  # that the engine keeps for one request
    max_interventions: int
    max_intervention_value: float
    max_intervention_factor: float
    max_intervention_bytes: int


def resolve_limits(settings: Settings, ready: Ready) -> Limits:
    """The limits, once the engine has told how long a sequence can be."""
    step = settings.max_num_batched_tokens or STEP_TOKENS[settings.device]
    longest = ready.max_model_len
    kv_tokens = ready.blocks_total * ready.block_size
    all_sessions = settings.max_all_session_tokens or max(longest, kv_tokens // 2)
    one_session = settings.max_session_tokens or max(longest, kv_tokens // 4)
    return Limits(
        max_model_len=longest,
        d_vocab=ready.d_vocab,
        d_model=ready.d_model,
        n_layers=ready.n_layers,
        max_text_bytes=settings.max_text_bytes or BYTES_PER_TOKEN * longest,
        max_inputs=settings.max_inputs,
        max_stream_items=settings.max_stream_items or 2 * settings.max_num_seqs,
        max_new_tokens=min(settings.max_new_tokens, longest - 1) if ready.unembeds else 0,
        max_top_k=min(settings.max_top_k, ready.d_vocab),
        max_reply_bytes=settings.max_reply_bytes,
        max_message_bytes=settings.max_message_bytes,
        # The other half of the slots may go to branches of sessions, again and again.
        max_continuations=min(settings.max_continuations, max(1, settings.max_num_seqs // 2)),
        max_queued_requests=settings.max_queued_requests or 4 * settings.max_num_seqs,
        max_queued_tokens=settings.max_queued_tokens or 4 * max(step, longest),
        max_branches=settings.max_branches,
        max_session_tokens=min(one_session, all_sessions),
        max_all_session_tokens=all_sessions,
        session_idle_seconds=settings.session_idle,
        session_seconds=settings.session_deadline,
        internals=settings.serves_internals,
        max_sites=MAX_SITES if settings.serves_internals else 0,
        max_look_bytes=settings.max_look_bytes,
        max_interventions=settings.max_interventions if settings.serves_internals else 0,
        max_intervention_value=settings.max_intervention_value,
        max_intervention_factor=settings.max_intervention_factor,
        max_intervention_bytes=settings.max_intervention_bytes,
    )
