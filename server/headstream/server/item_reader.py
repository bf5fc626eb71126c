"""From messages to texts that are ready to run: checked, tokenized, and cut if they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstream.server.errors import ServiceError
from headstream.server.models import LoadedModel
from headstream.server.offsets import Range, TokenizedText, Tokens
from headstream.server.sequence_run import read_texts, tokenize
from headstream.server.together import gather
from headstream.server.wire.budget import check_message
from headstream.server.wire.embed import VectorOptions
from headstream.server.wire.inputs import (
    ParsedInput,
    TextInput,
    check_length,
    cut_tokens,
    parse_input,
)
from headstream.server.wire.spans import parse_spans, span_positions, whole_positions
from headstream.v1 import embeddings_service_pb2 as pb

Positions = tuple[tuple[int, ...], ...]
"""For each vector the positions of its rows, ascending."""

_Read = Tokens | ServiceError
"""The tokens of a text, or why there are none."""


@dataclass(frozen=True, slots=True)
class Item:
    """One text, ready to run."""

    tokens: Tokens
    positions: Positions
    single: bool  # one vector for the text, not one per span
    truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One text, checked as far as that goes without its tokens."""

    field: str
    spans: tuple[Range, ...]
    parsed: ParsedInput
    prompt: str


class ItemReader:
    """Reads the items of one call. A bad one is its own error: the others do not suffer from it."""

    def __init__(self, model: LoadedModel, options: VectorOptions) -> None:
        self._model = model
        self._options = options
        self._prompt_tokens: dict[bool, int] = {}  # with and without special ones, once counted

    async def read(
        self, fields: Sequence[str], messages: Sequence[pb.EmbedInput]
    ) -> list[Item | ServiceError]:
        """Each item, or why it cannot be embedded.

        Whole texts are tokenized together, and the places of their tokens are not looked for.
        """
        asked = [self._ask(*each) for each in zip(fields, messages, strict=True)]
        together: list[_Asked] = []
        alone: list[_Asked] = []
        for each, message in zip(asked, messages, strict=True):
            if isinstance(each, _Asked):
                (alone if is_read_alone(message) else together).append(each)
        whole, others = await gather([self._read_together(together), self._read_alone(alone)])
        tokens = whole | others
        return [
            self._finish(each, tokens[each]) if isinstance(each, _Asked) else each for each in asked
        ]

    def _ask(self, field: str, message: pb.EmbedInput) -> _Asked | ServiceError:
        options, limits = self._options, self._model.limits
        try:
            num_bytes = max(1, len(message.spans)) * options.vector_bytes
            check_message(num_bytes, limits, f"{field}.spans: their vectors")
            spans = parse_spans(f"{field}.spans", message.spans)
            parsed = parse_input(f"{field}.input", message.input, limits, truncate=options.truncate)
            return _Asked(field, spans, parsed, options.prompt_of(parsed))
        except ServiceError as error:
            return error

    async def _read_together(self, asked: Sequence[_Asked]) -> dict[_Asked, _Read]:
        found: dict[_Asked, _Read] = {}
        for skip_special in (False, True):
            texts = {
                each: each.prompt + each.parsed.text
                for each in asked
                if isinstance(each.parsed, TextInput) and each.parsed.skip_special is skip_special
            }
            if texts:
                tokens = await read_texts(self._model, [*texts.values()], skip_special=skip_special)
                found |= zip(texts, tokens, strict=True)
                await self._count_prompt(skip_special=skip_special)
        return found

    async def _count_prompt(self, *, skip_special: bool) -> None:
        """Where pooling begins for models that leave the prompt out.

        Its tokens are those of the prompt alone, as sentence-transformers counts them: the last may
        have merged with the text's first.
        """
        prompt = self._options.prompt
        if prompt and not self._options.pool_prompt and skip_special not in self._prompt_tokens:
            [alone] = await read_texts(self._model, [prompt], skip_special=skip_special)
            self._prompt_tokens[skip_special] = len(alone) - (alone.special[-1:] == (True,))

    async def _read_alone(self, asked: Sequence[_Asked]) -> dict[_Asked, _Read]:
        async def read(each: _Asked) -> _Read:
            try:
                return await tokenize(self._model, each.parsed, each.prompt)
            except ServiceError as error:
                return error

        return dict(zip(asked, await gather([read(each) for each in asked]), strict=True))

    def _finish(self, asked: _Asked, tokens: _Read) -> Item | ServiceError:
        if isinstance(tokens, ServiceError):
            return tokens
        options, limits, parsed = self._options, self._model.limits, asked.parsed
        kept = cut_tokens(tokens, limits.max_model_len) if options.truncate else tokens
        try:
            check_length(f"{asked.field}.input", len(kept), limits)
            positions = self._positions(asked, kept)
        except ServiceError as error:
            return error
        truncated = parsed.cut or len(kept) < len(tokens)
        return Item(kept, positions, single=not asked.spans, truncated=truncated)

    def _positions(self, asked: _Asked, tokens: Tokens) -> Positions:
        rule = self._options.pooling
        if asked.spans:
            assert isinstance(tokens, TokenizedText)
            return span_positions(
                asked.field, tokens, asked.spans, self._options.unit, rule, prompt=asked.prompt
            )
        first = 0
        if isinstance(asked.parsed, TextInput):
            first = self._prompt_tokens.get(asked.parsed.skip_special, 0)
        return whole_positions(asked.field, tokens, rule, first=first)


def is_read_alone(message: pb.EmbedInput) -> bool:
    """Whether nothing is gained by reading it with others, which would wait for it."""
    return bool(message.spans) or message.input.WhichOneof("content") != "text"
