"""What the explorer shows of the inside of a model, beside the numbers of the client."""

from __future__ import annotations

import re

import numpy as np
import pytest

from explorer_browser import Explorer, number
from headstream.client import Add, Client, Site, TopLogits

pytestmark = pytest.mark.slow

TEXT = "So long and thanks for all the"
LAST = 7  # its position


@pytest.fixture(autouse=True)
def _read(explorer: Explorer) -> None:
    explorer.read(TEXT)
    explorer.page.wait_for_selector("#summary:has-text('8 tokens, perplexity')")


@pytest.mark.parametrize("head", ["mean", "2"])
def test_attention_is_that_of_the_client(
    explorer: Explorer, explorer_client: Client, head: str
) -> None:
    page = explorer.page
    panel = page.locator("#attention")
    slider = panel.get_by_label("Layer")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    panel.get_by_label("Head").select_option(head)
    page.wait_for_selector("#attention [aria-busy=false] .heat")
    heads = [] if head == "mean" else [int(head)]
    wanted = explorer_client.attention(
        TEXT, layers=[5], heads=heads, average_heads=head == "mean"
    ).weights[0, 0]  # [queries, keys]
    found = explorer.bars("attention")
    order = np.argsort(-wanted[LAST], kind="stable")[: len(found)]
    assert [key for _, key, _ in found] == order.tolist()
    shares = [share for _, _, share in found]
    np.testing.assert_allclose(shares, 100 * wanted[LAST][order], atol=0.051)
    assert panel.locator(".heat-cell").count() == (wanted >= 0.004).sum()
    assert panel.locator(".arc").count() == (wanted[LAST] >= 0.01).sum()


def test_lens_is_that_of_the_client(explorer: Explorer, explorer_client: Client) -> None:
    page = explorer.page
    page.wait_for_selector("#lens .lens")
    lens = explorer_client.logit_lens(TEXT, logits="top", top_logits=5, logprobs=True)
    assert isinstance(lens.logits, TopLogits)
    best = 100 * np.exp(lens.logits.values[..., 0])  # [layers, positions]
    cells = page.locator("#lens .cell").all()
    assert len(cells) == best.size
    shown = np.empty_like(best)
    for cell in cells:
        words = cell.get_attribute("aria-label")
        found = re.match(r"layer (\d+), position (\d+): .*, ([<\d. ]+ %)$", words)
        assert found, words
        shown[int(found[1]), int(found[2])] = number(found[3])
    np.testing.assert_allclose(shown, best, atol=0.051)


def test_arrow_keys_walk_the_lens(explorer: Explorer, explorer_client: Client) -> None:
    page = explorer.page
    page.wait_for_selector("#lens .lens")
    lens = explorer_client.logit_lens(TEXT, logits="top", top_logits=5, logprobs=True)
    assert isinstance(lens.logits, TopLogits)
    page.locator("#lens [tabindex='0']").focus()
    assert explorer.fact("position") == str(LAST)
    layer, position = lens.layers[-1], LAST
    for key, down, right in (("ArrowUp", -1, 0), ("ArrowLeft", 0, -1), ("ArrowUp", -1, 0)):
        page.keyboard.press(key)
        layer, position = layer + down, position + right
        place = f"of layer {layer} behind position {position}"
        page.wait_for_selector(f"#lens .bars[aria-label$='{place}']")
        assert explorer.fact("position") == str(position)
        ids = [id_ for _, id_, _ in explorer.bars("lens")]
        assert ids == lens.logits.token_ids[layer, position].tolist()
        page.wait_for_function("document.activeElement.matches('#lens [aria-selected=true]')")


def test_steering_is_what_the_client_gets(explorer: Explorer, explorer_client: Client) -> None:
    page = explorer.page
    page.wait_for_selector("#steer [aria-busy=false] #plain")
    page.wait_for_selector("#steer [aria-busy=false] #steered")
    prompt, toward, away = (
        page.locator("#steer").get_by_label(label).input_value()
        for label in ("Prompt", "Toward", "Away from")
    )
    layer = int(page.locator("#steer").get_by_label("Layer").input_value())
    site = Site("resid_post", layers=[layer])
    means = []
    for text in (toward, away):
        trace = explorer_client.trace(text, site)
        rows = trace.values("resid_post", layer)[~np.array(trace.special)]
        means.append(rows.astype(np.float64).mean(axis=0))
    vector = (means[0] - means[1]).astype(np.float32)

    def written(factor: float) -> str:
        changes = [Add("resid_post", layer, vector, factor=factor)] if factor else []
        stream = explorer_client.generate(
            prompt, max_new_tokens=40, repetition_penalty=1.3, interventions=changes
        )
        return "".join(step.text for step in stream)

    plain = page.locator("#plain").text_content()
    assert plain == written(0)
    assert page.locator("#steered").text_content() == written(1)
    assert written(1) != plain
    slider = page.locator("#steer").get_by_label("Strength")
    slider.focus()
    for _ in range(4):  # back to none, by quarters
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#steer h3:text-is('Steered, 0.00')")
    page.wait_for_selector("#steer .pair > :last-child [aria-busy=false]")
    page.wait_for_function(
        "document.querySelector('#steered').textContent"
        " === document.querySelector('#plain').textContent"
    )
    assert number(slider.input_value()) == 0
