"""A tiny random model with a tokenizer, for runs that test the harness or measure memory alone."""

from __future__ import annotations

from pathlib import Path

from bench.data import english_text

D_VOCAB = 512


def save_tiny_model(
    directory: Path, max_model_len: int, *, d_vocab: int = D_VOCAB, d_model: int = 64
) -> Path:
    """A Gemma 3 with both layer types and a byte-level tokenizer of 512 tokens.

    With a larger ``d_vocab`` a row of logits is long although the model is small.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([english_text()[:50_000]], trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    torch.manual_seed(7)
    config = transformers.Gemma3TextConfig(
        vocab_size=d_vocab,
        hidden_size=d_model,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=max_model_len,
        query_pre_attn_scalar=16,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        initializer_range=0.3,
    )
    transformers.Gemma3ForCausalLM(config).eval().save_pretrained(directory)
    return directory
