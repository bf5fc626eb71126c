"""What a request reads: text or token ids."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from headstream.server.errors import InvalidRequest
from headstream.server.limits import Limits
from headstream.server.offsets import Tokens
from headstream.server.wire.fields import check_count, check_int, check_token_ids
from headstream.v1 import types_pb2

MAX_MESSAGES = 1024
MAX_ROLE_BYTES = 64


@dataclass(frozen=True, slots=True)
class TextInput:
    """Text, short enough to tokenize."""

    text: str
    skip_special: bool
    cut: bool = False  # it was too long and was cut


@dataclass(frozen=True, slots=True)
class IdsInput:
    """Token ids, all in the vocabulary."""

    ids: tuple[int, ...]
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ChatInput:
    """Messages, short enough to write and tokenize."""

    field: str  # it came in
    messages: tuple[tuple[str, str], ...]  # role, content
    add_generation_prompt: bool
    cut: bool = False


ParsedInput = TextInput | IdsInput | ChatInput

TokensT = TypeVar("TokensT", bound=Tokens)


def parse_input(
    field: str,
    message: types_pb2.Input,
    limits: Limits,
    *,
    truncate: bool = False,
) -> ParsedInput:
    """The input, if it is there and not too long to look at.

    The bytes of a text are counted before it is tokenized: tokenizing costs time and memory.
    """
    kind = message.WhichOneof("content")
    if kind is None:
        raise InvalidRequest(field, "set text, token_ids or chat")
    if kind == "text":
        text, cut = check_text(f"{field}.text", message.text, limits, truncate=truncate)
        return TextInput(text, message.skip_special_tokens, cut)
    if kind == "chat":
        return _parse_chat(f"{field}.chat", message.chat, limits)
    ids = list(message.token_ids.ids)
    if not ids:
        raise InvalidRequest(f"{field}.token_ids", "is empty")
    cut = truncate and len(ids) > limits.max_model_len
    if cut:
        ids = ids[: limits.max_model_len]
    return IdsInput(check_token_ids(f"{field}.token_ids.ids", ids, limits.d_vocab), cut)


def least_tokens(message: types_pb2.Input, limits: Limits) -> int:
    """How many tokens an input will bring, as far as that is known before it is read.

    More than the model takes count as one: they are refused, and told why, or cut.
    """
    num_ids = len(message.token_ids.ids)
    return num_ids if 1 <= num_ids <= limits.max_model_len else 1


def _parse_chat(field: str, message: types_pb2.Chat, limits: Limits) -> ChatInput:
    check_count(f"{field}.messages", message.messages, 1, MAX_MESSAGES)
    num_bytes = 0
    for i, entry in enumerate(message.messages):
        role_bytes = len(entry.role.encode())
        check_int(f"{field}.messages[{i}].role bytes", role_bytes, 1, MAX_ROLE_BYTES)
        num_bytes += role_bytes + len(entry.content.encode())
    if num_bytes > limits.max_text_bytes:
        raise InvalidRequest(field, f"has {num_bytes} bytes; the limit is {limits.max_text_bytes}")
    return ChatInput(
        field=field,
        messages=tuple((entry.role, entry.content) for entry in message.messages),
        add_generation_prompt=(
            message.add_generation_prompt if message.HasField("add_generation_prompt") else True
        ),
    )


def check_text(
    field: str, text: str, limits: Limits, *, truncate: bool = False
) -> tuple[str, bool]:
    """The text, and whether it was cut."""
    if not text:
        raise InvalidRequest(field, "is empty")
    limit = limits.max_text_bytes
    # A code point has at most 4 bytes: most texts need not be encoded to know that they fit.
    if len(text) * 4 <= limit:
        return text, False
    data = text.encode()
    if len(data) <= limit:
        return text, False
    if not truncate:
        raise InvalidRequest(field, f"has {len(data)} bytes; the limit is {limit}")
    return data[:limit].decode(errors="ignore"), True


def check_length(field: str, num_tokens: int, limits: Limits, *, new_tokens: int = 0) -> None:
    """Refuse sequences longer than the model's context."""
    limit = limits.max_model_len
    if num_tokens == 0:
        raise InvalidRequest(field, "has no tokens")
    if num_tokens + new_tokens <= limit:
        return
    if new_tokens:
        what = f"{num_tokens} tokens and {new_tokens} new ones make {num_tokens + new_tokens}"
        raise InvalidRequest(field, f"{what}; the model takes {limit}")
    raise InvalidRequest(field, f"has {num_tokens} tokens; the model takes {limit}")


def cut_tokens(tokens: TokensT, limit: int) -> TokensT:
    """The first tokens, and behind them the special ones that the tokenizer puts at the end."""
    if len(tokens) <= limit:
        return tokens
    suffix = tokens.suffix if tokens.suffix < limit else 0
    first, last = limit - suffix, len(tokens) - suffix
    names = [field.name for field in fields(tokens) if field.name != "suffix"]
    columns: dict[str, Any] = {name: getattr(tokens, name) for name in names}
    kept = {name: column[:first] + column[last:] for name, column in columns.items()}
    return replace(tokens, suffix=suffix, **kept)
