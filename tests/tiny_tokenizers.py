"""Tiny tokenizers of the usual kinds, trained on a paragraph."""

from __future__ import annotations

import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

PARAGRAPH = [
    "The chicken didn't cross the road because it was too tired.",
    "The chicken didn't cross the road because it was too wide.",
    "So long and thanks for all the fish; naïve cafés, 日本語, שלום.",
]


def byte_level_tokenizer() -> Tokenizer:
    """As of gpt2, llama 3 and qwen, with a beginning mark."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PARAGRAPH, trainer)
    return _with_bos(tokenizer)


def byte_fallback_tokenizer() -> Tokenizer:
    """As of gemma and llama 2: a mark for spaces, and bytes for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(PARAGRAPH[:2], trainer)
    return _with_bos(_without_special_bytes(tokenizer))


def word_piece_tokenizer() -> Tokenizer:
    """As of bert: lower case, accents dropped, marks at both ends."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "chick", "##en", "cross", "##ed", "cafe", ".", "a"]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def compatibility_tokenizer() -> Tokenizer:
    """As of multilingual encoders: NFKC and lower case, then letters in bytes."""
    tokenizer = byte_level_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer


def _with_bos(tokenizer: Tokenizer) -> Tokenizer:
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    return tokenizer


def _without_special_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer can keep byte tokens only as special ones; real files have them as plain ones."""
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [
        token for token in document["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return Tokenizer.from_str(json.dumps(document))


def add_plain_token(tokenizer: Tokenizer, text: str) -> int:
    """A token that is added, but not special."""
    tokenizer.add_tokens([AddedToken(text, normalized=False)])
    return token_id(tokenizer, text)


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a token that is there."""
    found: int | None = tokenizer.token_to_id(text)
    assert found is not None
    return found
