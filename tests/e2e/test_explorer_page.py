"""The explorer's page in a real browser on a real server, beside the numbers of the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explorer_browser import ENCODER, Explorer, Scheme, contrast, number, opened
from headstream.client import Client, InvalidArgument, TopLogits
from server_process import Server

pytestmark = pytest.mark.slow

TEXT = "So long and thanks for all the"
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "explorer"


def test_tokens_and_scores_are_those_of_the_client(
    explorer: Explorer, explorer_client: Client
) -> None:
    explorer.read(TEXT)
    explorer.page.wait_for_selector("#summary:has-text('8 tokens, perplexity')")
    table = explorer_client.tokenize(TEXT)
    scores = explorer_client.score(TEXT)
    chips = explorer.chips()
    assert [int(id_) for _, id_, _ in chips] == table.token_ids
    assert [text for text, _, _ in chips[1:]] == [t.replace(" ", "·") for t in table.tokens[1:]]
    shown = [number(value) for _, _, value in chips[1:]]
    np.testing.assert_allclose(shown, scores.logprobs, atol=0.0051)
    assert number(explorer.fact("logprob")) == pytest.approx(scores.logprobs[-1], abs=6e-5)
    assert number(explorer.fact("rank")) == scores.ranks[-1]
    assert number(explorer.fact("entropy")) == pytest.approx(scores.entropies[-1], abs=6e-5)


def test_arrow_keys_walk_the_tokens_and_what_comes_next(
    explorer: Explorer, explorer_client: Client
) -> None:
    explorer.read(TEXT)
    page = explorer.page
    page.wait_for_selector("#summary:has-text('8 tokens, perplexity')")
    page.keyboard.press("Tab")  # Read
    while page.evaluate("document.activeElement.getAttribute('role')") != "option":
        page.keyboard.press("Tab")
    assert explorer.fact("position") == "7"
    rows = explorer_client.score(TEXT, logits="top", top_logits=10, logprobs=True).logits
    assert isinstance(rows, TopLogits)
    for key, position in (("ArrowLeft", 6), ("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2)):
        page.keyboard.press(key)
        page.wait_for_selector(f"#next .bars[aria-label$='position {position}']")
        assert explorer.fact("position") == str(position)
        assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
        found = explorer.bars("next")
        assert [id_ for _, id_, _ in found] == list(rows.token_ids[position])
        wanted = 100 * np.exp(rows.values[position])
        np.testing.assert_allclose([share for _, _, share in found], wanted, atol=0.051)
    page.keyboard.press("End")  # the row behind the last token scores nothing: it is generated
    page.wait_for_selector("#next .bars[aria-label$='position 7']")
    [step] = explorer_client.generate(
        TEXT, max_new_tokens=1, logits="top", top_logits=10, logprobs=True
    )
    assert isinstance(step.logits, TopLogits)
    assert [id_ for _, id_, _ in explorer.bars("next")] == list(step.logits.token_ids)


def test_distances_of_the_map_are_those_of_the_vectors(
    explorer: Explorer, explorer_client: Client
) -> None:
    page = explorer.page
    page.get_by_label("Example").select_option("before")
    page.wait_for_selector("#map .curve")
    layer = 9
    texts = [page.get_by_label(f"Sentence {side}").input_value() for side in "AB"]
    vectors = []
    for text in texts:
        embedded = explorer_client.embed_tokens(text, layers=[layer])
        vectors.append(embedded.vectors[0, embedded.tokens.index(" it")])
    a, b = (vector / np.linalg.norm(vector) for vector in vectors)
    page.wait_for_function("document.querySelector('#distance').textContent !== '0.0000'")
    assert number(page.locator("#distance").inner_text()) == pytest.approx(1 - a @ b, abs=6e-5)


def test_the_chicken_of_a_decoder_cannot_know_what_follows(explorer: Explorer) -> None:
    explorer.page.wait_for_selector("#map .curve")
    assert explorer.page.locator("#distance").inner_text() == "0.0000"
    assert "reads from left to right" in explorer.page.locator("#map").inner_text()


def test_an_encoder_shows_what_it_has_and_says_what_it_lacks(explorer: Explorer) -> None:
    page = explorer.page
    page.get_by_label("Model").select_option(ENCODER)
    page.wait_for_selector("#next .unavailable")
    for view in ("next", "lens", "steer"):
        assert "encoder" in page.locator(f"#{view} .unavailable").inner_text()
    page.wait_for_selector("#map .curve")
    assert number(page.locator("#distance").inner_text()) > 0.001  # it saw what follows


def test_errors_are_shown_as_the_server_says_them(
    explorer: Explorer, explorer_client: Client
) -> None:
    long = "word " * 2000
    with pytest.raises(InvalidArgument) as refused:
        explorer_client.tokenize(long)
    explorer.read(long)
    shown = explorer.page.locator("#read [role=alert]").inner_text()
    assert shown in str(refused.value)
    assert "9000" in shown
    explorer.complaints.clear()  # the browser itself notes a reply of 400
    explorer.read(TEXT)  # and it goes on
    explorer.page.wait_for_selector("#summary:has-text('8 tokens, perplexity')")


def test_a_long_text_is_shown_in_parts(explorer: Explorer) -> None:
    page = explorer.page
    explorer.read("the cat sat on the mat and " * 65)
    page.wait_for_selector("[data-fact=position]:text-is('456')")  # its last token
    assert page.locator("[role=option]").count() == 400
    page.locator("[aria-selected=true]").first.focus()
    page.keyboard.press("Home")
    page.wait_for_selector("[data-fact=position]:text-is('0')")
    assert page.locator("[role=option]").count() == 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(chromium: Any, explorer_server: Server, scheme: Scheme) -> None:
    """At least 4.5 to 1 against its ground, on the strongest tint too (WCAG 2.2, AA)."""
    with opened(chromium, explorer_server.admin, scheme) as explorer:
        page = explorer.page
        page.wait_for_selector("#summary:has-text('perplexity')")
        page.wait_for_selector("#next .bars")
        colours = page.evaluate(
            """() => {
              const ground = (node) => {
                for (; node; node = node.parentElement) {
                  const colour = getComputedStyle(node).backgroundColor;
                  if (!/, 0\\)$/.test(colour)) return colour;
                }
              };
              document.querySelector(".chip").style.setProperty("--strength", "1");
              const kinds = "p, h1, h2, span, button, dt, dd, figcaption, code, output";
              const nodes = [...document.querySelectorAll(kinds)];
              const found = nodes.filter((node) => node.innerText);
              return found.map((node) =>
                [node.innerText, getComputedStyle(node).color, ground(node)]);
            }"""
        )
        assert len(colours) > 50
        poor = [(text, contrast(ink, ground)) for text, ink, ground in colours]
        assert [(text, ratio) for text, ratio in poor if ratio < 4.5] == []


def test_everything_that_can_be_focused_has_a_name_and_shows_it(explorer: Explorer) -> None:
    page = explorer.page
    page.wait_for_selector("#summary:has-text('perplexity')")
    page.wait_for_selector("#map .curve")
    names = []
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const node = document.activeElement;
              if (node === document.body) return null;
              const label = node.getAttribute("aria-label") ?? node.labels?.[0]?.innerText
                ?? node.innerText;
              return [node.tagName, label, getComputedStyle(node).outlineStyle];
            }"""
        )
        if found is None:
            break
        names.append(found)
    assert len(names) > 10
    assert [tag for tag, name, _ in names if not name.strip()] == []
    assert [name for _, name, outline in names if outline == "none"] == []
    assert sum("position " in name for _, name, _ in names) == 1  # the tokens are one stop


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures(
    chromium: Any, explorer_server: Server, scheme: Scheme, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--screenshots"):
        pytest.skip("writes docs/explorer; asked for by --screenshots")
    with opened(chromium, explorer_server.admin, scheme) as explorer:
        page = explorer.page
        page.wait_for_selector("#summary:has-text('perplexity')")
        page.get_by_label("Example").select_option("before")
        page.wait_for_selector("#map .curve")
        page.wait_for_selector("#lens .lens")
        page.wait_for_selector("#attention .arcs")
        page.wait_for_selector("#steer [aria-busy=false] #plain")
        page.wait_for_selector("#steer [aria-busy=false] #steered")
        page.wait_for_load_state("networkidle")
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{scheme}.png", full_page=True)
        if scheme == "light":
            page.get_by_label("Model").select_option(ENCODER)
            page.wait_for_selector("#next .unavailable")
            page.wait_for_selector("#map .curve")
            page.locator("#map").screenshot(path=PICTURES / "encoder.png")
