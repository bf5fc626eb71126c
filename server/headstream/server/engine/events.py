"""From the engine's messages and raw frames to the front's events."""

from __future__ import annotations

from headstream.server.engine.frame import Frame
from headstream.server.engine.look import Seen
from headstream.server.engine.messages import Delta, Scores, Token
from headstream.server.engine.stream import (
    Event,
    LensEvent,
    LogitRowEvent,
    PatternEvent,
    RowsEvent,
    ScoresEvent,
    SeenEvent,
    SiteEvent,
    TokenEvent,
    WireTensor,
)


def to_tensor(frame: Frame, frames: list[bytes]) -> WireTensor:
    """The tensor a frame refers to."""
    return WireTensor(frame.dtype, frame.shape, frames[frame.index])


def to_event(delta: Delta, frames: list[bytes]) -> Event:
    """The news of one sequence with its tensors."""
    return Event(
        token=None if delta.token is None else _token(delta.token, frames),
        rows=tuple(
            RowsEvent(rows.layer, rows.start, to_tensor(rows.values, frames)) for rows in delta.rows
        ),
        vectors=None if delta.vectors is None else to_tensor(delta.vectors, frames),
        scores=None if delta.scores is None else _scores(delta.scores, frames),
        finish=delta.finish,
        queue_ns=delta.queue_ns,
        compute_ns=delta.compute_ns,
        logit_rows=tuple(
            LogitRowEvent(row.position, to_tensor(row.values, frames), row.token_ids)
            for row in delta.logit_rows
        ),
        seen=None if delta.seen is None else _seen(delta.seen, frames),
        milestone=delta.milestone,
        told_bytes=delta.told_bytes,
    )


def _token(token: Token, frames: list[bytes]) -> TokenEvent:
    logits = None if token.logits is None else to_tensor(token.logits, frames)
    return TokenEvent(token.index, token.token_id, token.logprob, logits, token.logits_ids)


def _scores(scores: Scores, frames: list[bytes]) -> ScoresEvent:
    logits = None if scores.logits is None else to_tensor(scores.logits, frames)
    return ScoresEvent(scores.start, to_tensor(scores.values, frames), logits, scores.logits_ids)


def _seen(seen: Seen, frames: list[bytes]) -> SeenEvent:
    return SeenEvent(
        tuple(
            SiteEvent(site.site, site.layers, site.start, to_tensor(site.values, frames))
            for site in seen.sites
        ),
        tuple(
            PatternEvent(part.layer, part.queries, to_tensor(part.weights, frames), part.keys)
            for part in seen.patterns
        ),
        tuple(
            LensEvent(rows.layer, rows.start, to_tensor(rows.logits, frames), rows.logits_ids)
            for rows in seen.lens
        ),
    )
