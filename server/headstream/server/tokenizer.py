"""Text to tokens and back, with the `tokenizers` library alone: no torch, no transformers.

Everything here may take long on a large text, so services call it in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Self

from tokenizers import Encoding, Tokenizer

from headstream.server.chat import ChatTemplate
from headstream.server.errors import EngineStartError
from headstream.server.offsets import TokenizedText, Tokens, align, char_ranges
from headstream.server.surfaces import Surfaces

FILE_NAME = "tokenizer.json"


class TextTokenizer:
    """The tokenizer of one checkpoint."""

    def __init__(self, tokenizer: Tokenizer, chat_template: ChatTemplate | None = None) -> None:
        # The file may ask for truncation or padding; what a request sends is what the model reads.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.chat_template = chat_template
        self.surfaces = Surfaces(tokenizer)

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """The tokenizer that lies beside the weights.

        Raises:
            EngineStartError: There is none, or it cannot be read.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise EngineStartError(
                f"{path} is missing: the checkpoint needs a fast tokenizer; "
                "transformers writes one with AutoTokenizer.from_pretrained(...).save_pretrained()"
            )
        chat_template = ChatTemplate.from_directory(directory)
        try:
            return cls(Tokenizer.from_file(str(path)), chat_template)
        except Exception as error:  # the library raises bare Exception
            raise EngineStartError(f"{path} cannot be read: {error}") from error

    def encode(self, text: str, *, skip_special: bool = False) -> TokenizedText:
        """The tokens of a text, with the special tokens the tokenizer adds unless skipped."""
        # encode_batch, for one text, because it lets other threads run meanwhile.
        [encoding] = self._tokenizer.encode_batch([text], add_special_tokens=not skip_special)
        added = [mask == 1 for mask in encoding.special_tokens_mask]
        tokens = self._tokens(encoding)
        surfaces = tuple(self.surfaces[token_id] for token_id in tokens.ids)
        data = text.encode()
        byte_ranges = align(data, surfaces, encoding.offsets, added)
        return TokenizedText(
            ids=tokens.ids,
            special=tokens.special,
            suffix=tokens.suffix,
            surfaces=surfaces,
            byte_ranges=tuple(byte_ranges),
            char_ranges=tuple(char_ranges(data, byte_ranges)),
        )

    def read(self, texts: Sequence[str], *, skip_special: bool = False) -> list[Tokens]:
        """The tokens of each text, without their places in it: a third of the work."""
        encodings = self._tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=not skip_special
        )
        return [self._tokens(encoding) for encoding in encodings]

    def _tokens(self, encoding: Encoding) -> Tokens:
        ids, added = encoding.ids, encoding.special_tokens_mask
        control_ids = self.surfaces.control_ids
        return Tokens(
            ids=tuple(ids),
            special=tuple(
                is_added == 1 or token_id in control_ids
                for token_id, is_added in zip(ids, added, strict=True)
            ),
            suffix=_count_at_end(added),
        )

    def describe(self, ids: Sequence[int]) -> TokenizedText:
        """The table of given tokens. Their text is the surfaces of those not special, joined."""
        surfaces = tuple(self.surfaces[token_id] for token_id in ids)
        special = tuple(token_id in self.surfaces.control_ids for token_id in ids)
        byte_ranges: list[tuple[int, int]] = []
        parts: list[bytes] = []
        end = 0
        for surface, is_special in zip(surfaces, special, strict=True):
            start = end
            if not is_special:
                end += len(surface)
                parts.append(surface)
            byte_ranges.append((start, end))
        return TokenizedText(
            ids=tuple(ids),
            special=special,
            suffix=_count_at_end(special),
            surfaces=surfaces,
            byte_ranges=tuple(byte_ranges),
            char_ranges=tuple(char_ranges(b"".join(parts), byte_ranges)),
        )

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of tokens; bytes that form no character become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)


def _count_at_end(marks: Sequence[int]) -> int:
    """How many of the last ones are set."""
    return sum(1 for _ in takewhile(bool, reversed(marks)))
