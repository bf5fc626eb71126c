"""What a model reads, as the contract has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

from headstream.v1 import types_pb2 as types_pb

if TYPE_CHECKING:
    from collections.abc import Sequence

Message: TypeAlias = "Mapping[str, str]"
"""One message of a chat: `{"role": "user", "content": "..."}`."""
Text: TypeAlias = "str | Sequence[int] | Sequence[Message]"
"""What a model reads: a text, token ids taken as they are, or a chat."""


def text_input(
    text: Text, *, skip_special_tokens: bool = False, add_generation_prompt: bool = False
) -> types_pb.Input:
    """A text, token ids or a chat as an input.

    Raises:
        TypeError: It is none of them.
        ValueError: A message has another key than role and content.
    """
    if isinstance(text, str):
        return types_pb.Input(text=text, skip_special_tokens=skip_special_tokens)
    if text and isinstance(text[0], Mapping):
        messages = [types_pb.ChatMessage(**message) for message in cast("Sequence[Message]", text)]
        chat = types_pb.Chat(messages=messages, add_generation_prompt=add_generation_prompt)
        return types_pb.Input(chat=chat)
    return types_pb.Input(token_ids=types_pb.TokenIds(ids=cast("Sequence[int]", text)))
