"""Embeddings for the eye: tokens with the length of their vectors, and cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from headstream.server.cli.views.text import bar, signed, visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headstream.client import TokenEmbeddings

_BAR_WIDTH = 20


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Cosine of the angle between two vectors [d]; 0 where one of them is zero."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length else 0.0


def tokens(embeddings: TokenEmbeddings) -> Table:
    """A row per token: where it stands in the text, and how long its vector is at each layer."""
    norms = np.linalg.norm(embeddings.vectors.astype(np.float64), axis=-1)  # [layers, n]
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    table.add_column("id", justify="right")
    table.add_column("chars", justify="right", style="dim")
    for layer in embeddings.layers:
        table.add_column(_norm_title(layer), justify="right")
    table.add_column("", width=_BAR_WIDTH)
    longest = max(float(norms[-1].max(initial=0.0)), 1e-12)
    for index, token in enumerate(embeddings.tokens):
        start, end = embeddings.offsets[index]
        table.add_row(
            str(index),
            Text(visible(token, 20), style="dim" if embeddings.special[index] else "bold"),
            str(embeddings.token_ids[index]),
            f"{start}..{end}",
            *(f"{norm:.2f}" for norm in norms[:, index]),
            bar(float(norms[-1, index]) / longest, _BAR_WIDTH),
        )
    return table


def similarities(texts: Sequence[str], vectors: NDArray[Any]) -> Table:
    """The cosine of every pair of texts.

    Args:
        texts: The n texts.
        vectors: [n, d].
    """
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("text", no_wrap=True, overflow="ellipsis", max_width=40)
    for index in range(len(texts)):
        table.add_column(str(index), justify="right")
    for row, text in enumerate(texts):
        cells = [
            Text(signed(value), style=_warmth(value))
            for value in (cosine(vectors[row], other) for other in vectors)
        ]
        table.add_row(str(row), text, *cells)
    return table


def cosines_by_layer(layers: Sequence[int], columns: Mapping[str, Sequence[float]]) -> Table:
    """A row per layer, and for each pair of tokens a cosine with its bar.

    Args:
        layers: Numbers of the layers; -1 is after the final norm.
        columns: Title to cosines, one for each layer.
    """
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("layer", justify="right", style="dim", no_wrap=True, min_width=5)
    for title in columns:
        table.add_column(title, no_wrap=True)
    for index, layer in enumerate(layers):
        cells = [_cosine_cell(cosines[index]) for cosines in columns.values()]
        table.add_row(layer_name(layer), *cells)
    return table


def layer_name(layer: int) -> str:
    """What a layer number means to a reader."""
    return {0: "embed", -1: "final"}.get(layer, str(layer))


def _norm_title(layer: int) -> str:
    name = layer_name(layer)
    return f"|x| {name}" if name != str(layer) else f"|x| layer {name}"


def _cosine_cell(value: float) -> Text:
    return Text.assemble(
        (signed(value), _warmth(value)), " ", bar(value, 12, _warmth(value)), end=""
    )


def _warmth(value: float) -> str:
    if value > 0.99999:
        return "bold green"
    return "green" if value > 0.8 else "yellow" if value > 0.4 else "red"
