"""Speculative decoding with the client alone: a small model guesses, a large one verifies.

    headstream serve --models large=... --models small=...
    python tests/examples/speculative.py "So long and thanks for all the" large small

The large model reads a whole guess in one step, and its own choices decide how much of it stays:
the tokens are those that it would have chosen alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from headstream.client import Branch, Client, TopLogits


@dataclass
class Speculation:
    """The tokens, and how good the guesses were."""

    token_ids: list[int]
    guessed: int
    accepted: int


def speculate(
    client: Client,
    prompt: str | list[int],
    new_tokens: int,
    *,
    large: str,
    small: str,
    ahead: int = 4,
) -> Speculation:
    """The greedy continuation by ``large``, with ``ahead`` tokens guessed at a time."""
    with (
        client.decode(prompt, model=large, logits="top", top_logits=1) as target,
        client.decode(prompt, model=small, logits="top", top_logits=1) as draft,
    ):
        begin = target.length
        guessed = accepted = 0
        while target.length < begin + new_tokens:
            token = _likeliest(target)  # certain: it is the large model's own
            draft.append([token])
            guess = _guess(draft, ahead)
            rows = target.append([token, *guess])  # row i judges token i of the guess
            good = _agreement(rows.token_ids[:-1, 0].tolist(), guess)
            kept = target.length - len(guess) + good
            target.rollback(kept)
            draft.rollback(kept)
            guessed += len(guess)
            accepted += good
        return Speculation(target.token_ids[begin : begin + new_tokens], guessed, accepted)


def _guess(draft: Branch[TopLogits], count: int) -> list[int]:
    guess: list[int] = []
    for _ in range(count):
        guess.append(_likeliest(draft))
        draft.append(guess[-1:])
    return guess


def _agreement(chosen: list[int], guess: list[int]) -> int:
    """How many tokens are the same before the first that differs."""
    pairs = zip(chosen, guess, strict=True)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), len(guess))


def _likeliest(branch: Branch[TopLogits]) -> int:
    return int(branch.logits.token_ids[0])


if __name__ == "__main__":
    with Client() as headstream:
        text, *names = sys.argv[1:]
        result = speculate(headstream, text, 40, large=names[0], small=names[1])
        print(headstream.detokenize(result.token_ids))
        print(f"{result.accepted} of {result.guessed} guessed tokens were right")
