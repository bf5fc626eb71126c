"""The bytes each token of a vocabulary stands for."""

from __future__ import annotations

import json
import re
from typing import Literal

from tokenizers import Tokenizer

Style = Literal["byte_level", "sentencepiece", "wordpiece", "plain"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "\u2581"
_IN_NO_VOCABULARY = "\U0010ffff"  # Unicode keeps it free of any meaning


def byte_of_letter() -> dict[str, int]:
    """GPT-2's map from the letters of its vocabulary to bytes.

    Printable bytes stand for themselves; the others are moved to code points from 256 on, so that
    every token can be written as text (Radford et al. 2019, `bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(moved)}


def find_style(tokenizer: Tokenizer) -> Style:
    """How the tokenizer writes bytes as letters, read from its decoder."""
    if tokenizer.decoder is None:
        return "plain"
    decoder = json.loads(tokenizer.decoder.__getstate__())
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    types = {part["type"] for part in parts}
    if "ByteLevel" in types:
        return "byte_level"
    if "WordPiece" in types:
        return "wordpiece"
    marks = {part["pattern"].get("String") for part in parts if part["type"] == "Replace"}
    if _SPACE_MARK in marks or types & {"Metaspace", "ByteFallback"}:
        return "sentencepiece"
    return "plain"


def find_unknown(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that the model writes for what its vocabulary lacks: one, or none, or bytes."""
    try:
        return frozenset(token.id for token in tokenizer.model.tokenize(_IN_NO_VOCABULARY))
    except Exception:  # the library raises bare Exception where the model has none
        return frozenset()


class Surfaces:
    """Token id -> bytes, computed when asked and then kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._style = find_style(tokenizer)
        self._bytes = byte_of_letter()
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        # Without the token for what the vocabulary lacks: that one stands for text.
        self.control_ids = self.special_ids - find_unknown(tokenizer)
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._compute(token_id)
        return known

    def list(self, count: int) -> list[bytes]:
        """Those of the tokens [0, count), computed anew: few of them are asked for again."""
        return [self._compute(token_id) for token_id in range(count)]

    def _compute(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:  # a padding row of the embedding matrix
            return b""
        if token_id in self.special_ids:
            return token.encode()
        if self._style == "byte_level":
            # Added tokens are written as they are: letters outside the map give them away.
            if all(letter in self._bytes for letter in token):
                return bytes(self._bytes[letter] for letter in token)
            return token.encode()
        if self._style == "sentencepiece":
            match = _BYTE_TOKEN.fullmatch(token)
            return bytes([int(match[1], 16)]) if match else token.replace(_SPACE_MARK, " ").encode()
        if self._style == "wordpiece":
            return token.removeprefix("##").encode()
        return token.encode()
