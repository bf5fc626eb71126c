"""JSON of a given schema with the client alone: a grammar library says which tokens may come next.

    python tests/examples/constrained_json.py "A chicken as JSON: " tokenizer.json

The server does the same when it is asked with `json_schema=`. Here the grammar is the caller's own,
and so is the choice among what it allows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llguidance
import llguidance.numpy as masks
import numpy as np

from headstream.client import Client

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "animal": {"type": "string", "maxLength": 12},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "crossed_the_road": {"type": "boolean"},
    },
    "required": ["animal", "legs", "crossed_the_road"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


def make_matcher(tokenizer_file: str, d_vocab: int, schema: dict[str, Any]) -> llguidance.LLMatcher:
    """Follows the schema over the tokens of a `tokenizer.json`."""
    tokenizer = llguidance.LLTokenizer(tokenizer_file, n_vocab=d_vocab)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return llguidance.LLMatcher(tokenizer, grammar)


def constrained_json(
    client: Client, prompt: str | list[int], tokenizer_file: str, schema: dict[str, Any]
) -> list[int]:
    """The greedy continuation among all that the schema admits."""
    with client.decode(prompt) as session:
        begin = session.length
        matcher = make_matcher(tokenizer_file, len(session.logits), schema)
        mask = masks.allocate_token_bitmask(1, len(session.logits))
        while not matcher.is_stopped():
            masks.fill_next_token_bitmask(matcher, mask)
            row = session.logits[None].copy()  # [1, V]
            masks.apply_token_bitmask_inplace(row, mask)
            token = int(np.argmax(row))
            matcher.consume_token(token)
            session.append([token])
        return session.token_ids[begin:]


if __name__ == "__main__":
    with Client() as headstream:
        found = constrained_json(headstream, sys.argv[1], sys.argv[2], SCHEMA)
        print(headstream.detokenize(found))
