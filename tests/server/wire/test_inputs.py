from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import front_values
import tiny_tokenizers
from headstream.server.errors import InvalidRequest
from headstream.server.offsets import Tokens
from headstream.server.tokenizer import TextTokenizer
from headstream.server.wire.inputs import (
    IdsInput,
    TextInput,
    check_length,
    cut_tokens,
    parse_input,
)
from headstream.v1 import types_pb2

LIMITS = front_values.make_limits(max_text_bytes=5, max_model_len=4)


def test_a_text_is_cut_between_characters() -> None:
    message = types_pb2.Input(text="ab日本")
    assert parse_input("input", message, LIMITS, truncate=True) == TextInput(
        "ab日", False, cut=True
    )


def test_ids_are_cut_at_the_context() -> None:
    message = types_pb2.Input(token_ids=types_pb2.TokenIds(ids=range(5)))
    parsed = parse_input("input", message, LIMITS, truncate=True)
    assert parsed == IdsInput((0, 1, 2, 3), cut=True)


def test_length_at_the_limit_and_beyond() -> None:
    check_length("prompt", 4, LIMITS)
    check_length("prompt", 3, LIMITS, new_tokens=1)
    with pytest.raises(InvalidRequest, match="has 5 tokens; the model takes 4"):
        check_length("prompt", 5, LIMITS)
    with pytest.raises(InvalidRequest, match="3 tokens and 2 new ones make 5; the model takes 4"):
        check_length("prompt", 3, LIMITS, new_tokens=2)
    with pytest.raises(InvalidRequest, match="no tokens"):
        check_length("prompt", 0, LIMITS)


def test_cut_tokens_keep_the_mark_at_the_end() -> None:
    tokens = TextTokenizer(tiny_tokenizers.word_piece_tokenizer()).encode(
        "the chicken crossed a cafe"
    )
    kept = cut_tokens(tokens, 4)
    assert kept.surfaces == (b"[CLS]", b"the", b"chick", b"[SEP]")
    assert cut_tokens(tokens, len(tokens)) is tokens
    assert len(cut_tokens(tokens, 1)) == 1


@pytest.mark.parametrize(
    ("make", "marks"),
    [(tiny_tokenizers.word_piece_tokenizer, 2), (tiny_tokenizers.byte_level_tokenizer, 1)],
)
@given(text=st.text("the chicken crossed é日", min_size=1, max_size=60), room=st.integers(1, 40))
def test_tokens_are_cut_as_the_tokenizer_itself_does(
    make: Callable[[], Tokenizer], marks: int, text: str, room: int
) -> None:
    limit = marks + room
    library = make()
    tokenizer = TextTokenizer(library)
    kept = cut_tokens(tokenizer.encode(text), limit)
    [bare] = tokenizer.read([text])
    library.enable_truncation(limit)
    assert list(kept.ids) == library.encode(text).ids
    assert len(kept.surfaces) == len(kept.byte_ranges) == len(kept.char_ranges) == len(kept)
    assert cut_tokens(bare, limit) == Tokens(kept.ids, kept.special, kept.suffix)
