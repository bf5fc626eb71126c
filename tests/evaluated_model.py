"""What is evaluated by lm_eval: texts, and a random model with a short context."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny_models
import tiny_tokenizers

CONTEXT = 96
TEXT = "So long and thanks for all the fish the chicken did not cross road because it was too"
WORDS = TEXT.split()
# The queue is shorter than what a client sends at once, and texts may be longer than the context.
SHORT_FLAGS = (
    "--dtype=float32",
    "--max-queued-requests=4",
    "--retry-after=0.05",
    "--max-text-bytes=9999",
)


def words(rng: random.Random, count: int) -> str:
    """So many of the words of a text."""
    return " ".join(rng.choices(WORDS, k=count))


def save_short_model(directory: Path, *, mark: bool) -> Path:
    """A random model with a short context, and a tokenizer that adds a mark, or none."""
    tokenizer = tiny_tokenizers.byte_level_tokenizer()
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    if mark:
        names["bos_token"] = "<bos>"
    else:
        tokenizer.post_processor = None
    tiny_models.save_tiny("gemma3", directory, vocab_size=420, max_position_embeddings=CONTEXT)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    return directory
