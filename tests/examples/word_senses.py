"""What a word means in its sentence: the same word in two sentences, and what lies nearest to it.

    python tests/examples/word_senses.py MODEL

An encoder reads the whole sentence, so what stands behind a word is in its vector. A decoder's
vector knows what stands before it alone: of two sentences that differ behind the word, it is the
same to the bit.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstream.client import Client

Array = np.ndarray[Any, np.dtype[np.float32]]

CHICKEN = "The chicken didn't cross the road because it was too"
TIRED, WIDE = f"{CHICKEN} tired.", f"{CHICKEN} wide."


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A word in a sentence."""

    vector: Array  # [d], of length 1
    nearest: list[tuple[str, float]]  # the other words and the cosine, the nearest first


def occurrence(client: Client, sentence: str, word: str, *, model: str = "") -> Occurrence:
    """The contextual vector of the first token of ``sentence`` that reads ``word``."""
    read = client.embed_tokens(sentence, layers=[-1], model=model)
    vectors = read.vectors[0] / np.linalg.norm(read.vectors[0], axis=1, keepdims=True)  # [n, d]
    names = [token.strip() for token in read.tokens]
    at = names.index(word)
    cosines = vectors @ vectors[at]  # [n]
    others = [
        (names[i], float(cosines[i]))
        for i in np.argsort(-cosines)
        if i != at and names[i].isalpha() and not read.special[i]
    ]
    return Occurrence(vectors[at], others)


if __name__ == "__main__":
    with Client() as headstream:
        found = [occurrence(headstream, text, "it", model=sys.argv[1]) for text in (TIRED, WIDE)]
    print(f"cosine of the two: {found[0].vector @ found[1].vector:.3f}")
    for text, each in zip((TIRED, WIDE), found, strict=True):
        print(f"{text}  " + "  ".join(f"{name} {cosine:.3f}" for name, cosine in each.nearest[:3]))
