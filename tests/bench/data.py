"""Prompts: English text that every CPython ships, as token ids, the same in every run."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Tokenizer


def english_text() -> str:
    """The reference manual as the interactive help prints it: about 700 KB of prose and code."""
    return " ".join(" ".join(topics[name].split()) for name in sorted(topics))


def text_ids(directory: Path) -> list[int]:
    """The text in the tokens of the model in ``directory``, without special ones."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(english_text(), add_special_tokens=False).ids
    return ids


def cut_prompts(ids: list[int], count: int, length: int, bos_id: int | None) -> list[list[int]]:
    """``count`` prompts of exactly ``length`` tokens, taken at even distances over the text.

    Raises:
        ValueError: The text has fewer tokens than one prompt.
    """
    lead = [] if bos_id is None else [bos_id]
    body = length - len(lead)
    if not 0 < body <= len(ids):
        raise ValueError(f"a prompt of {length} tokens cannot be cut from {len(ids)}")
    stride = (len(ids) - body) // count
    return [[*lead, *ids[start : start + body]] for start in range(0, stride * count, stride)]
