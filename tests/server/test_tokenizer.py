from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import tiny_tokenizers
from headstream.server.errors import EngineStartError
from headstream.server.tokenizer import TextTokenizer

TEXTS = [
    "The chicken didn't cross the road because it was too tired.",
    "  two spaces, a\ttab\nand a line",
    "naïve café ÀÉÎ",
    "family 👩‍👩‍👧 flag 🇯🇵 gothic 𐍈",
    "日本語と中文 mixed with latin",
    "שלום עולם ومرحبا",
    "<bos> typed by hand <eos>",
    "\u0301 combining first, e\u0301 later",
]
EXACT = [tiny_tokenizers.byte_level_tokenizer(), tiny_tokenizers.byte_fallback_tokenizer()]
IDS = ["byte_level", "byte_fallback"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("library", EXACT, ids=IDS)
def test_ranges_are_the_bytes_of_the_surfaces(library: Tokenizer, text: str) -> None:
    tokens = TextTokenizer(library).encode(text)
    data = text.encode()
    assert tokens.ids[0] == library.token_to_id("<bos>")
    assert tokens.byte_ranges[0] == tokens.char_ranges[0] == (0, 0)
    assert tokens.special[0]
    end = 0
    for surface, (start, stop) in list(zip(tokens.surfaces, tokens.byte_ranges, strict=True))[1:]:
        assert start == end, "ranges touch each other"
        assert data[start:stop] == surface
        end = stop
    assert end == len(data)


@pytest.mark.parametrize("library", EXACT, ids=IDS)
@given(text=st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_is_covered_and_chars_agree_with_bytes(library: Tokenizer, text: str) -> None:
    tokens = TextTokenizer(library).encode(text, skip_special=True)
    data = text.encode()
    assert b"".join(data[start:end] for start, end in tokens.byte_ranges) == data
    for (start, end), (first, last) in zip(tokens.byte_ranges, tokens.char_ranges, strict=True):
        touched = text[first:last].encode()
        assert data[start:end] in touched
        assert len(touched) - (end - start) < 8, "at most the rest of two characters"


@pytest.mark.parametrize("skip_special", [False, True])
@pytest.mark.parametrize(
    "library", [*EXACT, tiny_tokenizers.word_piece_tokenizer()], ids=[*IDS, "word_piece"]
)
def test_texts_read_together_are_those_read_alone(library: Tokenizer, skip_special: bool) -> None:
    tokenizer = TextTokenizer(library)
    together = tokenizer.read([*TEXTS, "", "[SEP] typed [SEP]"], skip_special=skip_special)
    for text, tokens in zip([*TEXTS, "", "[SEP] typed [SEP]"], together, strict=True):
        alone = tokenizer.encode(text, skip_special=skip_special)
        assert list(tokens.ids) == library.encode(text, add_special_tokens=not skip_special).ids
        assert (tokens.ids, tokens.special, tokens.suffix) == (
            alone.ids,
            alone.special,
            alone.suffix,
        )
        behind = alone.byte_ranges[len(alone) - alone.suffix :]
        assert all(start == end for start, end in behind), "what is put at the end is no text"


def test_a_split_character_gives_its_whole_range_to_every_part() -> None:
    tokens = TextTokenizer(EXACT[1]).encode("a𐍈b", skip_special=True)
    assert tokens.surfaces[1:5] == (b"\xf0", b"\x90", b"\x8d", b"\x88")
    assert tokens.byte_ranges[1:5] == ((1, 2), (2, 3), (3, 4), (4, 5))
    assert set(tokens.char_ranges[1:5]) == {(1, 2)}


def test_normalised_text_falls_back_to_the_tokenizers_own_offsets() -> None:
    text = "The CAFÉ  crossed."
    tokens = TextTokenizer(tiny_tokenizers.word_piece_tokenizer()).encode(text)
    covered = [text.encode()[start:end].decode() for start, end in tokens.byte_ranges]
    assert covered == ["", "The", "CAFÉ", "cross", "ed", ".", ""]
    assert tokens.surfaces[2] == b"cafe"
    assert tokens.special == (True, False, False, False, False, False, True)
    assert tokens.byte_ranges[-1] == (len(text.encode()),) * 2


def test_special_tokens_typed_by_hand_keep_their_range() -> None:
    text = "a <eos> b"
    tokens = TextTokenizer(EXACT[0]).encode(text, skip_special=True)
    at = tokens.ids.index(tiny_tokenizers.token_id(EXACT[0], "<eos>"))
    assert tokens.special[at]
    assert tokens.byte_ranges[at] == (2, 7)
    assert tokens.surfaces[at] == b"<eos>"


def test_added_tokens_that_are_not_special_are_text() -> None:
    library = tiny_tokenizers.byte_level_tokenizer()
    added = tiny_tokenizers.add_plain_token(library, "\n\n")
    tokens = TextTokenizer(library).encode("a\n\nb", skip_special=True)
    assert added in tokens.ids
    assert b"".join(tokens.surfaces) == b"a\n\nb"
    assert not any(tokens.special)


@pytest.mark.parametrize("library", EXACT, ids=IDS)
def test_given_ids_are_described_like_their_text(library: Tokenizer) -> None:
    tokenizer = TextTokenizer(library)
    encoded = tokenizer.encode("naïve 日本 fish")
    assert tokenizer.describe(encoded.ids) == encoded


def test_ids_without_a_token_have_no_bytes() -> None:
    tokens = TextTokenizer(EXACT[0]).describe([100_000])
    assert tokens.surfaces == (b"",)
    assert tokens.byte_ranges == tokens.char_ranges == ((0, 0),)


@pytest.mark.parametrize("library", EXACT, ids=IDS)
def test_decode_gives_the_text_back(library: Tokenizer) -> None:
    tokenizer = TextTokenizer(library)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special=False) == "<bos>" + text


def test_the_file_cannot_ask_for_truncation() -> None:
    library = tiny_tokenizers.byte_level_tokenizer()
    library.enable_truncation(3)
    assert len(TextTokenizer(library).encode("The chicken didn't cross the road")) > 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"[" * 200_000),
        ("tokenizer_config.json", b'{"chat_template": [{"name": 3}]}'),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_a_broken_chat_template_is_named(
    checkpoint: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    shutil.copy(checkpoint / "tokenizer.json", tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(EngineStartError, match=file):
        TextTokenizer.from_directory(tmp_path)


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="missing"):
        TextTokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineStartError, match="cannot be read"):
        TextTokenizer.from_directory(tmp_path)
