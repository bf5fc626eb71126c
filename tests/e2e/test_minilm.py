"""The real all-MiniLM-L6-v2 on a real server, beside the sentence-transformers library."""

from __future__ import annotations

import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import word_senses
from examples.word_senses import CHICKEN, TIRED, WIDE
from headstream.client import Client, EmbedError, Unimplemented
from server_process import Server, running_server

NAME = "all-minilm-l6-v2"
TEXTS = [
    "So long and thanks for all the fish",
    "a",
    "naïve cafés, Straße, ÅNGSTRÖM",
    "日本語の文章です。",
    "שלום עולם, مرحبا بالعالم",
    "👩‍👩‍👧 went to 🇯🇵 \u200b\u00ad and back",
    "  spaces,\ttabs\nand \r\n lines  ",
    "supercalifragilisticexpialidocious" * 4,
    "x" * 250,  # one word too long to split
]


@pytest.fixture
def client(minilm_server: Server) -> Generator[Client]:
    with Client(minilm_server.address) as client:
        yield client


def sentences(count: int) -> list[str]:
    """English of 3 to 120 words, from this tree's own documents."""
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    words = [word for word in text.split() if word.isalpha()]  # the others are many tokens each
    rng = random.Random(4)
    starts = [(rng.randrange(len(words) - 120), rng.randrange(3, 120)) for _ in range(count)]
    return [" ".join(words[start : start + length]) for start, length in starts]


def test_vectors_equal_sentence_transformers(client: Client, minilm_reference: Any) -> None:
    """Within 1e-5, in one call of many texts, and nothing said about how."""
    texts = [*TEXTS, *sentences(64 - len(TEXTS))]
    vectors = client.embed(texts)
    expected = minilm_reference.encode(texts)
    assert vectors.shape == (64, 384)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_bits_alone_and_packed(client: Client) -> None:
    texts = [*TEXTS, *sentences(40)]
    packed = client.embed(texts)
    for text, vector in zip(texts, packed, strict=True):
        assert client.embed(text).tobytes() == vector.tobytes(), text


def test_rows_of_every_layer_equal_transformers(client: Client, minilm_reference: Any) -> None:
    import torch

    table = client.embed_tokens(CHICKEN + " tired", layers=[*range(7), -1])
    assert table.tokens[0] == "[CLS]"
    assert table.tokens[-1] == "[SEP]"
    with torch.no_grad():
        model = minilm_reference[0].auto_model
        hidden = model(torch.tensor([table.token_ids]), output_hidden_states=True).hidden_states
    for ours, theirs in zip(table.vectors, (*hidden, hidden[-1]), strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)


def test_longer_texts_are_cut_only_if_asked(client: Client, minilm_reference: Any) -> None:
    """At 256 tokens, as the checkpoint says; that library does so unasked."""
    long = " ".join(sentences(15))[:2000]
    with pytest.raises(EmbedError, match="the model takes 256"):
        client.embed([long])
    np.testing.assert_allclose(
        client.embed(long, truncate=True), minilm_reference.encode(long), atol=1e-5
    )


def test_what_needs_logits_is_refused(client: Client) -> None:
    info = client.model()
    assert not any(info.can(method) for method in ("Generate", "Score", "Decode"))
    assert info.can("Embed")
    assert info.bidirectional
    assert (info.embedding.pooling, info.embedding.pool_special_tokens) == ("mean", True)
    assert info.limits.max_model_tokens == 256
    with pytest.raises(Unimplemented, match="gives no logits"):
        list(client.generate("So long"))
    with pytest.raises(Unimplemented, match="gives no logits"):
        client.score("So long")


@pytest.mark.parametrize(
    ("flags", "nearness"),
    [(("--dtype", "bfloat16"), 0.999), (("--dtype", "float32", "--quantization", "int8"), 0.99)],
    ids=["bfloat16", "int8"],
)
def test_fewer_bits_stay_near(
    minilm_reference: Any, flags: tuple[str, ...], nearness: float
) -> None:
    texts = sentences(20)
    with running_server(Path(NAME), *flags) as server, Client(server.address) as client:
        vectors = client.embed(texts)
        lone = [client.embed(text) for text in texts[:5]]
    assert np.array_equal(vectors[:5], lone)
    cosines = (vectors * minilm_reference.encode(texts)).sum(1)
    assert nearness < cosines.min() < 1 - 1e-6


def test_it_means_another_thing_where_the_road_is_wide(
    minilm_server: Server, minilm_reference: Any
) -> None:
    """Beside the library's vectors of the same tokens; the nearest noun, and how it moves."""
    with Client(minilm_server.address) as client:
        tired, wide = (word_senses.occurrence(client, text, "it") for text in (TIRED, WIDE))
        at = client.tokenize(TIRED).tokens.index("it")
    theirs = [
        minilm_reference.encode(text, output_value="token_embeddings")[at] for text in (TIRED, WIDE)
    ]
    theirs = [vector / np.linalg.norm(vector) for vector in theirs]
    np.testing.assert_allclose([tired.vector, wide.vector], theirs, atol=1e-5)
    assert tired.vector @ wide.vector == pytest.approx(0.873, abs=1e-3)
    near, far = (dict(each.nearest) for each in (tired, wide))
    assert near["chicken"] - near["road"] > far["chicken"] - far["road"] + 0.04
    assert max(("chicken", "road", "tired"), key=near.__getitem__) == "chicken"


@pytest.mark.slow
def test_to_a_decoder_it_is_the_same_word(gemma_server: Server) -> None:
    with Client(gemma_server.address) as client:
        tired, wide = (word_senses.occurrence(client, text, "it") for text in (TIRED, WIDE))
    assert np.array_equal(tired.vector, wide.vector)
