"""Beam search with the client alone: the server keeps the keys and values of every beam.

    python tests/examples/beam_search.py "So long and thanks for all the"

Beams share what they have in common: a fork copies nothing but the last block of keys and values.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np

from headstream.client import Branch, Client

Array = np.ndarray[Any, np.dtype[Any]]


def beam_search(
    client: Client, prompt: str | list[int], width: int, new_tokens: int
) -> list[tuple[float, list[int]]]:
    """The best continuations, each with its log-probability, the best first."""
    with client.decode(prompt, logprobs=True) as session:
        length = session.length
        beams: list[tuple[float, Branch[Array]]] = [(0.0, session.fork())]
        for _ in range(new_tokens):
            scores = np.stack([score + beam.logits for score, beam in beams])  # [beams, V]
            best = np.argsort(-scores, axis=None, kind="stable")[:width]
            origins, tokens = np.unravel_index(best, scores.shape)
            branches = _spread([beam for _, beam in beams], origins.tolist())
            session.append_many(branches, [[int(token)] for token in tokens])
            beams = list(zip(scores.flat[best].tolist(), branches, strict=True))
        return [(score, beam.token_ids[length:]) for score, beam in beams]


def _spread(beams: list[Branch[Array]], origins: list[int]) -> list[Branch[Array]]:
    """A branch for each origin: the beam itself for the last that needs it, else a fork."""
    left = Counter(origins)
    for index, beam in enumerate(beams):
        if not left[index]:
            beam.close()
    branches: list[Branch[Array]] = []
    for origin in origins:
        left[origin] -= 1
        branches.append(beams[origin].fork() if left[origin] else beams[origin])
    return branches


if __name__ == "__main__":
    with Client() as headstream:
        for logprob, token_ids in beam_search(headstream, sys.argv[1], width=4, new_tokens=12):
            print(f"{logprob:8.3f} {headstream.detokenize(token_ids)}")
