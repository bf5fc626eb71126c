"""What generated text must look like: grammars compiled beside the steps, masks of tokens within.

llguidance follows the grammar over the bytes of the model's own tokens. A sequence keeps its
matcher when it is preempted: what it has generated stays, and so does its place in the grammar.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import pairwise

import llguidance
import numpy as np
from numpy.typing import NDArray

from headstream.server.engine.messages import FinishReason, Vocabulary
from headstream.server.grammar_text import LIMITS

_PATIENCE = 0.1  # seconds without another look at what has arrived meanwhile


class Matcher:
    """The place of one sequence in its grammar."""

    def __init__(self, tokenizer: llguidance.LLTokenizer, grammar: str) -> None:
        """Compile and find the first mask: both may take long, and run without Python's lock.

        Raises:
            ValueError: the tokens of the model cannot follow the grammar.
        """
        self._matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
        self._words = np.zeros((tokenizer.vocab_size + 31) // 32, np.int32)
        self._is_filled = False
        self.mask()
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def mask(self) -> NDArray[np.uint8]:
        """Bit i % 8 of byte i // 8 says whether token i may come next; valid until :meth:`take`."""
        if not self._is_filled:
            if not self._matcher.is_error():
                words = self._words
                self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            if self._matcher.is_error():  # it has become too complex, or nothing can complete it
                self._words[:] = 0
            self._is_filled = True
        return self._words.view(np.uint8)

    def take(self, token_id: int) -> FinishReason | None:
        """Move on by a token that the mask allowed; how that ends the text, if it does."""
        self._is_filled = False
        self._matcher.consume_token(token_id)
        if self._matcher.is_error():
            return "dead_end"
        return "stop" if self._matcher.is_stopped() else None

    def copy(self) -> Matcher:
        """The same place, for another sequence."""
        twin = copy.copy(self)
        twin._matcher = self._matcher.deep_copy()  # noqa: SLF001 - of the same class
        twin._words = self._words.copy()  # noqa: SLF001 - as above
        return twin


class OffGrammarError(ValueError):
    """The tokens that a sequence begins with end the text, or are none that may come."""


class Grammars:
    """Compiles grammars in a thread of its own, while steps run."""

    def __init__(self) -> None:
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._open: dict[int, Future[Matcher]] = {}  # by sequence id

    def __bool__(self) -> bool:
        """Whether anything is being compiled or waits to be taken."""
        return bool(self._open)

    def learn(self, vocabulary: Vocabulary) -> None:
        """Take the bytes of all tokens, once.

        Where no token ends a text no grammar can, so all are refused.
        """
        if not vocabulary.eos_ids:
            return
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(vocabulary)),
            n_vocab=len(vocabulary.tokens),
            eos_token=list(vocabulary.eos_ids),
        )

    def compile(self, sequence_id: int, grammar: str, token_ids: Iterable[int] = ()) -> None:
        """Begin to compile, and to follow these tokens; :meth:`take_ready` gives the outcome."""
        self._open[sequence_id] = self._thread.submit(self._make, grammar, token_ids)

    def drop(self, sequence_id: int) -> None:
        """Nobody wants it any more."""
        if (compiling := self._open.pop(sequence_id, None)) is not None:
            compiling.cancel()

    def take_ready(self, *, block: bool) -> list[tuple[int, Matcher | Exception]]:
        """What is compiled, by sequence id, or why it cannot be; waits a little if ``block``."""
        if block and self._open:
            wait(self._open.values(), timeout=_PATIENCE, return_when=FIRST_COMPLETED)
        done = [sequence_id for sequence_id, future in self._open.items() if future.done()]
        return [(sequence_id, _outcome(self._open.pop(sequence_id))) for sequence_id in done]

    def _make(self, grammar: str, token_ids: Iterable[int]) -> Matcher:
        if self._tokenizer is None:
            raise ValueError("the tokens of the model are not known, or none of them ends a text")
        matcher = Matcher(self._tokenizer, grammar)
        for index, token_id in enumerate(token_ids):
            if matcher.take(token_id) is not None:
                raise OffGrammarError(f"token {index}: {token_id}")
        return matcher


def _outcome(future: Future[Matcher]) -> Matcher | Exception:
    try:
        return future.result()
    except Exception as error:  # told to one sequence, never raised: the loop must go on
        return error


class _Tokens:
    """A vocabulary as llguidance reads it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = vocabulary.eos_ids[0] if vocabulary.eos_ids else None
        special = frozenset(vocabulary.special_ids)
        self._ids = {
            token: token_id
            for token_id, token in enumerate(vocabulary.tokens)
            if token and token_id not in special
        }  # among equals the last: the first ones stand for single bytes

    def __call__(self, text: bytes) -> list[int]:
        """The tokens that the model would read here, for text that the grammar leaves no choice.

        Byte-pair encoding without its table: vocabularies list merges in order, so of all
        neighbours those are joined first that make the token of the lowest id.
        """
        parts: list[bytes] = []
        for letter in map(str.encode, text.decode()):
            parts += [letter] if letter in self._ids else [bytes([byte]) for byte in letter]
        last = len(self.tokens)
        while len(parts) > 1:
            ranks = [self._ids.get(left + right, last) for left, right in pairwise(parts)]
            lowest = min(ranks)
            if lowest == last:
                break
            at = ranks.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self._ids[part] for part in parts]
