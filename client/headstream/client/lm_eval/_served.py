"""The served model, as `lm_eval` needs it: token ids in, numbers out, however busy the server."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from headstream.client._errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headstream.client._client import Client
    from headstream.client._results import Array

ResultT = TypeVar("ResultT")

_BUSY = frozenset({"QUEUE_FULL", "SESSION_LIMIT"})  # reasons of errors that pass
_PATIENCE_S = 600.0


class ServedModel:
    """One model of a server. Threads may share it.

    Every method raises an `RpcError` when its call fails; a server that is too busy is asked again
    for ten minutes.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self.info = client.model(name)
        self.context: int = self.info.limits.max_model_tokens
        self.added_token_ids = self._find_added()
        self._session = threading.Lock()  # one at a time: each holds memory of the server

    def encode(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """The token ids of a text."""
        if not text:  # which a server does not take
            return [] if skip_special_tokens else list(self.added_token_ids)
        table = _patiently(
            lambda: self._client.tokenize(
                text, model=self._name, skip_special_tokens=skip_special_tokens
            )
        )
        return table.token_ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids, as the tokenizer writes it."""
        return self._client.detokenize(
            token_ids, model=self._name, skip_special_tokens=skip_special_tokens
        )

    def likelihood(self, token_ids: list[int], count: int) -> tuple[float, bool]:
        """Log-probability of the last `count` tokens, and whether each is the likeliest.

        Args:
            token_ids: At most one more than the model's context.
            count: At least 1, and less than there are.
        """
        logprobs: list[float] = []
        greedy = True
        if len(token_ids) > self.context:
            # Nobody reads the last token of a text, but `score` counts it: the row that it is
            # scored by comes from a decoding session.
            *token_ids, last = token_ids
            count -= 1
            row = _patiently(lambda: self._next_logprobs(token_ids))  # [V]
            logprobs.append(float(row[last]))
            greedy = int(row.argmax()) == last
        if count:
            scores = _patiently(lambda: self._client.score(token_ids, model=self._name))
            logprobs += scores.logprobs[-count:].tolist()
            greedy = greedy and not scores.ranks[-count:].any()
        return sum(logprobs), greedy

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        stop: Sequence[str],
        sampling: Mapping[str, Any],
    ) -> list[int]:
        """The tokens of a continuation, the one that ends it included."""

        def run() -> list[int]:
            steps = self._client.generate(
                prompt, model=self._name, max_new_tokens=max_new_tokens, stop=stop, **sampling
            )
            return [step.token_id for step in steps]

        return _patiently(run)

    def _next_logprobs(self, token_ids: Sequence[int]) -> Array:
        """Log-probabilities of the token behind the last, float32 [V]."""
        with (
            self._session,
            self._client.decode(
                token_ids, logprobs=True, model=self._name, max_tokens=len(token_ids)
            ) as session,
        ):
            return session.logits

    def _find_added(self) -> list[int]:
        """The special tokens that the tokenizer adds, the beginning-of-text mark first."""
        table = self._client.tokenize("a", model=self._name)
        columns = zip(table.token_ids, table.byte_offsets, table.special, strict=True)
        return [token_id for token_id, (start, end), special in columns if special and start == end]


def _patiently(call: Callable[[], ResultT]) -> ResultT:
    """Call, and again after a pause while the server is too busy.

    Raises:
        ResourceExhausted: It has been so for long.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except ResourceExhausted as error:
            if error.reason not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(error.retry_after or 1.0)
