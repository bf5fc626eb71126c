"""Text to tokens and back, with the `tokenizers` library alone: no torch, no transformers.

Everything here may take long on a large text, so services call it in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from headstream.server.chat import ChatTemplate
from headstream.server.errors import EngineStartError
from headstream.server.offsets import TokenizedText, align, char_ranges
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
        surfaces = tuple(self.surfaces[token_id] for token_id in encoding.ids)
        data = text.encode()
        byte_ranges = align(data, surfaces, encoding.offsets, added)
        return TokenizedText(
            ids=tuple(encoding.ids),
            surfaces=surfaces,
            byte_ranges=tuple(byte_ranges),
            char_ranges=tuple(char_ranges(data, byte_ranges)),
            special=tuple(
                is_added or token_id in self.surfaces.control_ids
                for token_id, is_added in zip(encoding.ids, added, strict=True)
            ),
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
            surfaces=surfaces,
            byte_ranges=tuple(byte_ranges),
            char_ranges=tuple(char_ranges(b"".join(parts), byte_ranges)),
            special=special,
        )

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of tokens; bytes that form no character become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
