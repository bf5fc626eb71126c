"""The offsets of a long text cost in proportion to its length."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

import tiny_tokenizers
from headstream.server.offsets import align, char_ranges
from headstream.server.tokenizer import TextTokenizer

SHORT, LONG = 500, 4_000  # times a text is repeated
MOST = 3.0  # times as much for each unit of length: linear is 1, quadratic is 8
TEXTS = {
    "mixed": "The naïve cafe\u0301 日本 カ\u3099 ﬁ① 👩\u200d👧 ",
    "without a space": "e\u0301\u0327语カ\u3099",
}
TOKENIZERS = {
    "byte level": TextTokenizer(tiny_tokenizers.byte_level_tokenizer()),
    "byte fallback": TextTokenizer(tiny_tokenizers.byte_fallback_tokenizer()),
    "compatibility": TextTokenizer(tiny_tokenizers.compatibility_tokenizer()),
    "word piece": TextTokenizer(tiny_tokenizers.word_piece_tokenizer()),
}
Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Of this thread's processor time, the best of three: others on the machine do not count."""
    best = float("inf")
    gc.collect()
    gc.disable()  # a collection looks at all that the other tests have loaded
    try:
        for _ in range(3):
            began = time.thread_time()
            work()
            best = min(best, time.thread_time() - began)
    finally:
        gc.enable()
    return best


def growth(make: Callable[[int], Work]) -> float:
    """How much more a unit of the long text costs than one of the short."""
    return seconds(make(LONG)) / seconds(make(SHORT)) / (LONG / SHORT)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_offsets_of_a_long_text(tokenizer: TextTokenizer, text: str) -> None:
    def make(count: int) -> Work:
        whole = text * count
        [encoding] = tokenizer._tokenizer.encode_batch([whole])
        surfaces = [tokenizer.surfaces[token_id] for token_id in encoding.ids]
        added = [mask == 1 for mask in encoding.special_tokens_mask]
        data = whole.encode()
        return lambda: char_ranges(data, align(data, surfaces, encoding.offsets, added))

    assert growth(make) < MOST


def test_a_text_that_is_read_anew_for_each_token_shows() -> None:
    """Negative control."""

    def make(count: int) -> Work:
        return lambda: [sum(1 for _ in range(end)) for end in range(0, count, 4)]

    assert growth(make) > MOST
