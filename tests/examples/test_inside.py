"""The look inside on the embedded real model: the numbers of docs/internals.md and its pictures."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from examples import inside
from examples.inside import Head
from headstream.client import Client
from headstream.model.loading.source import resolve
from server_process import running_server

pytestmark = pytest.mark.slow
CACHE = Path.home() / ".cache" / "headstream"  # the server's default


@pytest.fixture(scope="module")
def gemma() -> Path:
    """Directory of the embedded model, converted where it is not yet."""
    return resolve("gemma-3-270m", CACHE)


@pytest.fixture(scope="module")
def client(gemma: Path) -> Generator[Client]:
    flags = ("--dtype", "float32", "--threads", "2")
    with running_server(gemma, *flags) as server, Client(server.address) as client:
        yield client


def test_the_heads_that_carry_it_to_chicken_are_those_of_transformers(
    client: Client, gemma: Path
) -> None:
    attention = client.attention(inside.CHICKEN)
    found = inside.heads_between(attention, " it", " chicken", count=3)
    assert [(head.layer, head.head) for head in found] == [(8, 0), (5, 0), (10, 2)]
    weights = [head.weight for head in found]
    np.testing.assert_allclose(weights, [0.504, 0.304, 0.257], atol=1e-3)
    reference: Any = transformers.AutoModelForCausalLM.from_pretrained(
        gemma, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        theirs = reference(torch.tensor([attention.token_ids]), output_attentions=True).attentions
    expected = torch.stack(theirs)[:, 0].numpy()  # [layers, heads, queries, keys]
    np.testing.assert_allclose(attention.weights, expected, atol=1e-5)
    wide = client.attention(inside.CHICKEN.replace("tired", "wide"))
    it = attention.tokens.index(" it")
    assert np.array_equal(wide.weights[:, :, it, : it + 1], attention.weights[:, :, it, : it + 1])


def test_a_head_taken_out_moves_a_stated_logit(client: Client) -> None:
    moved = inside.without(client, inside.BECAUSE, Head(8, 0, 0.0))
    road = moved[inside.first_token(client, " road")]
    chicken = moved[inside.first_token(client, " chicken")]
    assert road == pytest.approx(-1.50, abs=0.02)
    assert chicken == pytest.approx(0.28, abs=0.02)


def test_a_direction_of_mood_changes_how_a_text_goes_on(client: Client) -> None:
    vector = inside.direction(client, inside.HAPPY, inside.SAD, inside.MOOD_LAYER)
    assert np.linalg.norm(vector) == pytest.approx(159.6, abs=0.1)
    happy, sad = (inside.first_token(client, word) for word in (" happy", " sad"))
    plain_text, plain = inside.steered(client, vector, 0.0)
    for factor, least, text in (
        (4.0, 5.0, " so happy."),
        (-4.0, -4.0, " like I didn't want to go."),
    ):
        changed_text, logits = inside.steered(client, vector, factor)
        gap = (logits[happy] - logits[sad]) - (plain[happy] - plain[sad])
        assert gap / least >= 1, "further apart, the way that was asked"
        assert changed_text.startswith(text)
        assert changed_text != plain_text
    again, logits = inside.steered(client, vector, 0.0)
    assert again == plain_text
    assert np.array_equal(logits, plain), "the model itself has not changed"


def test_the_answer_is_there_some_layers_before_the_last(client: Client) -> None:
    lens = client.logit_lens(inside.HOT, logits="full")
    ranks = inside.rank_by_layer(lens, inside.first_token(client, " cold"))
    assert ranks[15:] == [0, 0, 0, 0], "the likeliest from layer 15 on"
    assert min(ranks[:12]) > 0


def test_the_pictures_are_drawn(client: Client, tmp_path: Path) -> None:
    inside.show_heads(client, tmp_path)
    inside.show_steering(client, tmp_path)
    inside.show_lens(client, tmp_path)
    for name in ("heads", "arcs", "steering", "lens"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
