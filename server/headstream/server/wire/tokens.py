"""Token tables."""

from __future__ import annotations

from headstream.server.offsets import TokenizedText
from headstream.v1 import types_pb2


def to_table(tokens: TokenizedText) -> types_pb2.TokenTable:
    """The message of a tokenized text."""
    return types_pb2.TokenTable(
        ids=tokens.ids,
        surfaces=tokens.surfaces,
        byte_starts=[start for start, _ in tokens.byte_ranges],
        byte_ends=[end for _, end in tokens.byte_ranges],
        char_starts=[start for start, _ in tokens.char_ranges],
        char_ends=[end for _, end in tokens.char_ranges],
        special=tokens.special,
    )
