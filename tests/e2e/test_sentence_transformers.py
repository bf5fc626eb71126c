"""Tiny models saved by sentence-transformers, served as they are, beside that library."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

import tiny_tokenizers
from headstream.client import Client, InvalidArgument, Unimplemented
from headstream.client.sentence_transformers import HeadstreamTransformer
from server_process import running_server

D_VOCAB = 420
PROMPTS = {"query": "Instruct: find what answers the question\nQuery: ", "document": ""}
TEXTS = [
    "The chicken didn't cross the road because it was too tired.",
    "fish",
    "naïve cafés, 日本語, שלום 🐔",
    "So long and thanks for all the fish; " * 12,
]
SIZES: dict[str, Any] = {
    "vocab_size": D_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 700,
    "initializer_range": 0.3,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 16}


@dataclass(frozen=True)
class Case:
    """A kind of model, and how it makes vectors."""

    model_type: str
    sizes: dict[str, Any]
    pooling: str
    normalize: bool
    include_prompt: bool = True
    default_prompt: str | None = None


CASES = {
    # As Qwen3-Embedding and e5-mistral: the last token, instructions for queries.
    "qwen3-last": Case("qwen3", GROUPED, "lasttoken", normalize=True),
    "mistral-last": Case("mistral", GROUPED, "lasttoken", normalize=True, default_prompt="query"),
    # As Instructor: the instruction is read and not pooled.
    "llama-mean": Case("llama", GROUPED, "mean", normalize=False, include_prompt=False),
    "gpt2-mean": Case("gpt2", SIZES, "mean", normalize=True),
    "bert-cls": Case("bert", SIZES, "cls", normalize=True, default_prompt="query"),
    # Its positions begin behind that of the padding token, which no text may hold.
    "xlm-roberta-mean": Case("xlm-roberta", SIZES | {"pad_token_id": 4}, "mean", normalize=True),
    "modernbert-max": Case(
        "modernbert", SIZES | {"cls_token_id": 0, "sep_token_id": 1}, "max", normalize=False
    ),
}


def save_model(directory: Path, case: Case) -> Path:
    """The layers alone, and a tokenizer that puts marks at both ends."""
    torch.manual_seed(3)
    auto_config: Any = transformers.AutoConfig
    auto_model: Any = transformers.AutoModel
    config = auto_config.for_model(case.model_type, **case.sizes)
    auto_model.from_config(config).eval().save_pretrained(directory)
    tokenizer = tiny_tokenizers.byte_level_tokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>",
        model_max_length=400,
    ).save_pretrained(directory)
    return directory


def save_sentence_transformer(directory: Path, case: Case) -> Any:
    """The library's own model, saved by it into ``directory``."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )

    layers: Any = Transformer(str(save_model(directory / "layers", case)))
    mode: Any = case.pooling
    pooling = Pooling(64, pooling_mode=mode, include_prompt=case.include_prompt)
    model: Any = SentenceTransformer(
        modules=[layers, pooling, *([Normalize()] if case.normalize else [])],
        prompts=PROMPTS,
        default_prompt_name=case.default_prompt,
        device="cpu",
    )
    model.save(str(directory / "model"))
    return model


@pytest.fixture(scope="module", params=CASES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[Case, Any, Client]]:
    """The case, that library's model, and a client of a server with the same directory."""
    case = CASES[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    model = save_sentence_transformer(directory, case)
    with (
        running_server(directory / "model", "--dtype", "float32") as server,
        Client(server.address) as client,
    ):
        yield case, model, client


def assert_equal(vectors: Any, expected: Any) -> None:
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=1e-5)


def test_vectors_equal_the_library(served: tuple[Case, Any, Client]) -> None:
    """With nothing said, with a prompt by name or as text, and with none."""
    _, model, client = served
    assert_equal(client.embed(TEXTS), model.encode(TEXTS))
    queries = client.embed(TEXTS, prompt_name="query")
    assert_equal(queries, model.encode(TEXTS, prompt_name="query"))
    assert_equal(client.embed(TEXTS, prompt="Find: "), model.encode(TEXTS, prompt="Find: "))
    plain = client.embed(TEXTS, prompt="")
    assert_equal(plain, model.encode(TEXTS, prompt=""))
    assert np.abs(queries - plain).max() > 1e-2, "a prompt changes them"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_embeddings": True},
        {"truncate_dim": 24},
        {"truncate_dim": 24, "normalize_embeddings": True},
        {"truncate_dim": 24, "precision": "ubinary"},
        {"prompt_name": "query"},
        {"prompt": "Find: "},
    ],
    ids=str,
)
def test_the_shape_of_the_library(served: tuple[Case, Any, Client], options: Any) -> None:
    """Queries and documents have prompts of their own, and cut vectors are of any length."""
    _, model, client = served
    ours = HeadstreamTransformer(client)
    assert (ours.prompts, ours.default_prompt_name) == (model.prompts, model.default_prompt_name)
    for method in ("encode", "encode_query", "encode_document"):
        found = getattr(ours, method)(TEXTS, **options)
        assert_equal(found, getattr(model, method)(TEXTS, **options))


def test_the_same_bits_alone_and_packed(served: tuple[Case, Any, Client]) -> None:
    _, _, client = served
    packed = client.embed(TEXTS, prompt_name="query")
    for text, vector in zip(TEXTS, packed, strict=True):
        assert client.embed(text, prompt_name="query").tobytes() == vector.tobytes()


def test_pooling_and_length_of_ones_own(served: tuple[Case, Any, Client]) -> None:
    """Mean over tokens that are not special, of a model that would do it otherwise."""
    case, model, client = served
    table = client.embed_tokens(TEXTS[0])
    own = client.embed(TEXTS[0], pooling="mean", normalize=False, prompt="")
    assert_equal(own, table.vectors[0, 1:-1].mean(0))
    with torch.no_grad():
        rows = model[0].auto_model(torch.tensor([table.token_ids])).last_hidden_state[0]
    assert_equal(table.vectors[0], rows.numpy())
    info = client.model()
    assert info.limits.max_model_tokens == 400
    assert info.bidirectional == (case.model_type not in ("qwen3", "mistral", "llama", "gpt2"))
    assert info.embedding.prompts == PROMPTS
    assert info.embedding.default_prompt_name == (case.default_prompt or "")


def test_refusals(served: tuple[Case, Any, Client]) -> None:
    _, _, client = served
    with pytest.raises(InvalidArgument, match=r"prompt_name: 'passage' is no prompt .* query"):
        client.embed("fish", prompt_name="passage")
    with pytest.raises(Unimplemented, match="gives no logits"):
        client.score("fish")
