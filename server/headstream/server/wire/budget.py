"""Bytes of a reply, computed from shapes, so that too large a reply is refused before any work."""

from __future__ import annotations

from headstream.model.outputs import LogitsSpec
from headstream.server.errors import ReplyTooLarge
from headstream.server.limits import Limits
from headstream.server.wire.tensors import ITEM_BYTES


def generate_token_bytes(
    logits: LogitsSpec, rows_dtype_bytes: int, num_layers: int, limits: Limits
) -> int:
    """Bytes of tensors sent with each generated token."""
    row = logits.row_values(limits.d_vocab) * ITEM_BYTES[logits.dtype]
    return row + num_layers * limits.d_model * rows_dtype_bytes


def check_budget(num_bytes: int, limits: Limits, asked: int | None) -> int:
    """The bytes, if neither the server's limit nor the caller's own is exceeded."""
    limit = limits.max_reply_bytes if asked is None else min(asked, limits.max_reply_bytes)
    if num_bytes > limit:
        raise ReplyTooLarge(num_bytes, limit)
    return num_bytes


def check_message(num_bytes: int, limits: Limits, what: str) -> None:
    """Refuse what must travel in one message and would not fit in it."""
    if num_bytes > limits.max_message_bytes:
        raise ReplyTooLarge(num_bytes, limits.max_message_bytes, what)


def check_kept(num_bytes: int, limits: Limits) -> None:
    """Refuse a look inside for which the engine would have to keep too much."""
    if num_bytes > limits.max_look_bytes:
        raise ReplyTooLarge(num_bytes, limits.max_look_bytes, "what is kept of the text meanwhile")
