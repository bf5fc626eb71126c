from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import tiny_tokenizers
from headstream.server.detokenizer import Detokenizer
from headstream.server.surfaces import Surfaces
from headstream.server.tokenizer import TextTokenizer

LIBRARIES = [tiny_tokenizers.byte_level_tokenizer(), tiny_tokenizers.byte_fallback_tokenizer()]
BYTES = TextTokenizer(LIBRARIES[0])


def run(library: Tokenizer, text: str, *stops: str) -> tuple[list[str], str, str]:
    """The text of each token, what came at the end, and the stop string that was met."""
    tokenizer = TextTokenizer(library)
    detokenizer = Detokenizer(tokenizer.surfaces, stops)
    steps: list[str] = []
    for token_id in tokenizer.encode(text, skip_special=True).ids:
        steps.append(detokenizer.push(token_id))
        if detokenizer.stop_string:
            break
    return steps, detokenizer.flush(), detokenizer.stop_string


def letters(text: str, *stops: str) -> tuple[list[str], str, str]:
    """The same, one token per byte."""
    surfaces = Surfaces(LIBRARIES[0])
    detokenizer = Detokenizer(surfaces, stops)
    ids = [BYTES.encode(letter, skip_special=True).ids[0] for letter in text]
    steps: list[str] = []
    for token_id in ids:
        steps.append(detokenizer.push(token_id))
        if detokenizer.stop_string:
            break
    return steps, detokenizer.flush(), detokenizer.stop_string


@pytest.mark.parametrize("library", LIBRARIES, ids=["byte_level", "byte_fallback"])
@given(text=st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_steps_and_rest_make_the_text(library: Tokenizer, text: str) -> None:
    steps, rest, _ = run(library, text)
    assert "".join(steps) + rest == text


def test_a_character_appears_with_its_last_byte() -> None:
    steps, rest, _ = run(LIBRARIES[1], "a𐍈b")
    assert steps == ["a", "", "", "", "𐍈", "b"]
    assert rest == ""


def test_an_open_character_is_flushed_as_a_replacement() -> None:
    tokenizer = TextTokenizer(LIBRARIES[1])
    detokenizer = Detokenizer(tokenizer.surfaces)
    first = tokenizer.encode("𐍈", skip_special=True).ids[0]
    assert detokenizer.push(first) == ""
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_have_no_text() -> None:
    detokenizer = Detokenizer(Surfaces(LIBRARIES[0]))
    assert detokenizer.push(tiny_tokenizers.token_id(LIBRARIES[0], "<eos>")) == ""


def test_what_may_begin_a_stop_string_is_held_and_released() -> None:
    steps, rest, stop = letters("abxabc!", "abc")
    assert steps == ["", "", "abx", "", "", ""]
    assert (rest, stop) == ("", "abc")


def test_held_text_is_flushed_at_the_end() -> None:
    steps, rest, stop = letters("xab", "abc")
    assert steps == ["x", "", ""]
    assert (rest, stop) == ("ab", "")


def test_text_is_cut_at_the_first_stop_string() -> None:
    steps, rest, stop = run(LIBRARIES[0], "The chicken didn't cross", "cross", "didn")
    assert "".join(steps) == "The chicken "
    assert (rest, stop) == ("", "didn")


def test_an_overlapping_prefix_is_not_lost() -> None:
    steps, _, stop = letters("aaab", "aab")
    assert "".join(steps) == "a"
    assert stop == "aab"


@given(
    text=st.text("ab", max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_no_stop_string_is_ever_sent(text: str, stops: list[str]) -> None:
    steps, rest, stop = letters(text, *stops)
    sent = "".join(steps) + rest
    assert not any(stop in sent for stop in stops)
    assert text.startswith(sent + stop)
    assert bool(stop) == any(stop in text for stop in stops)


def test_a_stop_string_is_text_while_it_may_not_stop() -> None:
    """It ends what comes later, also where it began before; a shorter one within it does not."""

    def steps(text: str, may_stop: str, *stops: str) -> tuple[str, str]:
        detokenizer = Detokenizer(Surfaces(LIBRARIES[0]), stops)
        found = ""
        for letter, may in zip(text, may_stop, strict=True):
            [token_id] = BYTES.encode(letter, skip_special=True).ids
            found += detokenizer.push(token_id, may_stop=may == "+")
            if detokenizer.stop_string:
                break
        return found + detokenizer.flush(), detokenizer.stop_string

    assert steps("abcabc", "---+++", "bc") == ("abca", "bc")
    assert steps("abc", "--+", "bc") == ("a", "bc")
    assert steps("abcd", "---+", "bc") == ("abcd", "")
    assert steps("xabz", "---+", "ab", "xaby") == ("xabz", "")
    assert steps("xaby", "---+", "ab", "xaby") == ("", "xaby")
    assert steps("abab", "--++", "ab") == ("ab", "ab")
