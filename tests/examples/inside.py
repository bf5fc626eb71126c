"""Inside a model, with the client alone: who carries "it", a direction of mood, and when it knows.

    headstream serve --dtype float32
    python tests/examples/inside.py docs/internals

prints what docs/internals.md tells, and draws its pictures. The numbers are Gemma 3 270M's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headstream.client import Add, AttentionWeights, Client, LogitLens, Scale, TopLogits

Array = np.ndarray[Any, np.dtype[Any]]

CHICKEN = "The chicken didn't cross the road because it was too tired"
BECAUSE = "The chicken didn't cross the road because the"
PARTY = "I went to the party and I felt"
HAPPY = (
    "I love this and it makes me so happy.",
    "What a wonderful, joyful day!",
    "She smiled, laughed and felt great delight.",
    "This is the best news ever, I am thrilled.",
    "We celebrated with happiness and cheer.",
)
SAD = (
    "I hate this and it makes me so sad.",
    "What a terrible, miserable day!",
    "She cried, wept and felt great sorrow.",
    "This is the worst news ever, I am devastated.",
    "We mourned with sadness and grief.",
)
MOOD_LAYER = 6
HOT = "The opposite of hot is"
LINE = "#0072B2"
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Head:
    """A head, and how much of one token's look goes to another."""

    layer: int
    head: int
    weight: float


def heads_between(attention: AttentionWeights, query: str, key: str, count: int) -> list[Head]:
    """The heads in which one token looks most at another, most first."""
    row, column = attention.tokens.index(query), attention.tokens.index(key)
    weights = attention.weights[:, :, attention.queries.index(row), column]  # [layers, heads]
    order = np.argsort(-weights, axis=None)[:count]
    layers, heads = np.unravel_index(order, weights.shape)
    return [
        Head(attention.layers[layer], attention.heads[head], float(weights[layer, head]))
        for layer, head in zip(layers.tolist(), heads.tolist(), strict=True)
    ]


def direction(client: Client, towards: Sequence[str], away: Sequence[str], layer: int) -> Array:
    """From one kind of text to another, [d]: the mean difference of their streams' means."""

    def mean(text: str) -> Array:
        rows: Array = client.trace(text, "resid_post").values("resid_post", layer)
        rest: Array = rows[1:].mean(
            0
        )  # the first, the mark of the beginning, is far from all others
        return rest

    pairs = zip(towards, away, strict=True)
    vector: Array = np.mean([mean(one) - mean(other) for one, other in pairs], 0)
    return vector


def steered(client: Client, vector: Array, factor: float) -> tuple[str, Array]:
    """How the text goes on with the mood changed, and the logits [V] of its first token."""
    change = [Add("resid_post", MOOD_LAYER, vector, factor=factor)] if factor else []
    run = client.generate(PARTY, max_new_tokens=16, logits="full", interventions=change)
    steps = list(run)
    return run.text, np.asarray(steps[0].logits)


def without(client: Client, text: str, head: Head) -> Array:
    """How much each logit [V] behind a text moves when a head is taken out."""
    changed = client.logit_lens(
        text,
        layers=[-1],
        logits="full",
        interventions=[Scale("z", head.layer, 0.0, heads=[head.head])],
    )
    plain = client.logit_lens(text, layers=[-1], logits="full")
    moved: Array = np.asarray(changed.logits)[0, -1] - np.asarray(plain.logits)[0, -1]
    return moved


def rank_by_layer(lens: LogitLens, token_id: int) -> list[int]:
    """How many tokens each layer holds likelier behind the text than this one."""
    rows = np.asarray(lens.logits)[:, -1]  # [layers, V]
    return [int((row > row[token_id]).sum()) for row in rows]


def draw_heads(attention: AttentionWeights, query: str, key: str, path: Path) -> None:
    """A square for each layer and head: how much one token looks at another."""
    row, column = attention.tokens.index(query), attention.tokens.index(key)
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes: Axes = figure.subplots()
    shown = axes.imshow(attention.weights[:, :, row, column].T, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(attention.layers)), [str(layer) for layer in attention.layers])
    axes.set_yticks(range(len(attention.heads)), [str(head) for head in attention.heads])
    axes.set(
        xlabel="layer", ylabel="head", title=f'how much "{query.strip()}" looks at "{key.strip()}"'
    )
    figure.colorbar(shown)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def draw_arcs(attention: AttentionWeights, head: Head, query: str, path: Path) -> None:
    """The text in a line, and from one token an arc to each that it looks at."""
    row = attention.tokens.index(query)
    weights = attention.pattern(head.layer, head.head)[row]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes: Axes = figure.subplots()
    angle = np.linspace(0, np.pi, 60)
    for key in range(row):
        middle, radius = (row + key) / 2, (row - key) / 2
        axes.plot(
            middle + radius * np.cos(angle),
            radius * np.sin(angle),
            color=LINE,
            linewidth=8 * weights[key],
        )
    for place, token in enumerate(attention.tokens):
        weight = "bold" if place == row else "normal"
        axes.text(place, -0.4, token.strip(), ha="center", va="top", fontsize=9, weight=weight)
    axes.set_title(
        f'layer {head.layer}, head {head.head}: where "{query.strip()}" looks', fontsize=10
    )
    axes.set(xlim=(-0.6, len(attention) - 0.4), ylim=(-1.2, row / 2 + 0.2))
    axes.axis("off")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def draw_steering(factors: Sequence[float], moves: dict[str, list[float]], path: Path) -> None:
    """How the logits of some words move with the factor on the direction."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    for word, values in moves.items():
        axes.plot(factors, values, marker="o", label=word.strip())
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="factor on the direction", ylabel="change of the logit")
    axes.set_title(f'"{PARTY} ..."', fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=DOTS_PER_INCH)


def draw_lens(client: Client, lens: LogitLens, path: Path) -> None:
    """A table of layers and positions: the likeliest next token, darker where it is likelier."""
    assert isinstance(lens.logits, TopLogits)
    ids, logprobs = lens.logits.token_ids[..., 0], lens.logits.values[..., 0]  # [layers, n]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes: Axes = figure.subplots()
    axes.imshow(np.exp(logprobs), cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (layer, place), token_id in np.ndenumerate(ids):
        text = client.detokenize([int(token_id)], skip_special_tokens=False)
        shown = "".join(letter if letter.isascii() else "?" for letter in text.strip())[:12]
        color = "white" if logprobs[layer, place] > np.log(0.6) else "black"
        axes.text(
            place,
            layer,
            shown.replace("$", r"\$"),
            ha="center",
            va="center",
            fontsize=7,
            color=color,
        )
    axes.set_xticks(
        range(len(lens.positions)), [lens.tokens[place].strip() for place in lens.positions]
    )
    axes.set_yticks(range(len(lens.layers)), [str(layer) for layer in lens.layers])
    axes.set(xlabel="behind this token", ylabel="layer", title="what each layer would say next")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def first_token(client: Client, word: str) -> int:
    """The id of the first token of a word."""
    return client.tokenize(word, skip_special_tokens=True).token_ids[0]


def show_heads(client: Client, folder: Path) -> Head:
    """The heads that carry "it" to "chicken"; the first of them."""
    attention = client.attention(CHICKEN)
    found = heads_between(attention, " it", " chicken", count=5)
    for head in found:
        print(f"layer {head.layer:2} head {head.head}: {head.weight:.3f}")
    draw_heads(attention, " it", " chicken", folder / "heads.png")
    draw_arcs(attention, found[0], " it", folder / "arcs.png")
    moved = without(client, BECAUSE, found[0])
    for word in (" road", " chicken"):
        print(f"without the first, {BECAUSE!r}: {word!r} {moved[first_token(client, word)]:+.2f}")
    return found[0]


def show_steering(client: Client, folder: Path) -> None:
    """The continuation with a direction of mood, both ways."""
    vector = direction(client, HAPPY, SAD, MOOD_LAYER)
    ids = {word: first_token(client, word) for word in (" happy", " sad")}
    _, plain = steered(client, vector, 0.0)
    factors = (-4.0, -2.0, 0.0, 2.0, 4.0)
    moves: dict[str, list[float]] = {word: [] for word in ids}
    for factor in factors:
        text, logits = steered(client, vector, factor)
        for word, token_id in ids.items():
            moves[word].append(float(logits[token_id] - plain[token_id]))
        print(
            f"{factor:+.0f} {text!r}", {word: round(moved[-1], 2) for word, moved in moves.items()}
        )
    draw_steering(factors, moves, folder / "steering.png")


def show_lens(client: Client, folder: Path) -> None:
    """When the model knows what comes next."""
    print(rank_by_layer(client.logit_lens(HOT, logits="full"), first_token(client, " cold")))
    draw_lens(client, client.logit_lens(HOT, top_logits=1, logprobs=True), folder / "lens.png")


if __name__ == "__main__":
    pictures = Path(sys.argv[1])
    pictures.mkdir(parents=True, exist_ok=True)
    with Client(sys.argv[2] if len(sys.argv) > 2 else "localhost:50051") as headstream:
        show_heads(headstream, pictures)
        show_steering(headstream, pictures)
        show_lens(headstream, pictures)
