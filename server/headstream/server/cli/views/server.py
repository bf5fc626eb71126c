"""The server seen from a terminal: loading, the ready panel, and its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headstream.server.cli.views.text import count

if TYPE_CHECKING:
    from headstream.client import ModelInfo

STAGES = {
    "starting": "Starting the engine",
    "assembling": "Assembling the checkpoint",
    "checksum": "Checking the checkpoint",
    "converting": "Converting the weights (once)",
    "writing": "Writing the converted weights",
    "tokenizer": "Reading the tokenizer",
    "downloading": "Downloading",
    "kernels": "Preparing the kernels (the first time takes longer)",
    "graphs": "Preparing decode steps (the first time takes longer)",
    "weights": "Loading the weights",
    "verifying": "Checking against the manifest",
    "hashing": "Taking the fingerprint",
}
"""What the stages of a start are called; others keep their own name."""


def stage(name: str) -> str:
    """A stage of the start in words."""
    return STAGES.get(name, name.capitalize())


def ready(
    address: str,
    admin_address: str,
    models: Sequence[ModelInfo],
    *,
    tls: bool,
    explorer: bool = False,
) -> Panel:
    """What is served, where, and what to type next."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    facts.add_row("gRPC", Text(address + (" (TLS)" if tls else ""), style="bold"))
    facts.add_row("admin", f"http://{admin_address}/metrics  /readyz  /livez")
    if explorer:
        facts.add_row("explorer", f"http://{admin_address}/explorer/")
    for model in models:
        facts.add_row("model", Text.assemble((model.name, "bold green"), f"  {_numbers(model)}"))
    facts.add_row("", "")
    where = "" if address.rpartition(":")[2] == "50051" else f" -a {address}"
    what = 'generate{} "So long and thanks for all the" --logits 5'
    if models and not models[0].can("Generate"):
        what = 'embed{} "So long" "Farewell" "A fish"'
    facts.add_row("try", Text("headstream " + what.format(where)))
    facts.add_row("stop", "Ctrl-C: running requests are finished first")
    return Panel(facts, title="Headstream is ready", title_align="left", border_style="green")


def ready_line(
    address: str, admin_address: str, models: Sequence[ModelInfo], *, explorer: bool = False
) -> str:
    """The same in one line, where there is no terminal."""
    names = ", ".join(model.name for model in models)
    page = f", explorer http://{admin_address}/explorer/" if explorer else ""
    serving = names and f", serving {names}"
    return f"ready: gRPC {address}, admin http://{admin_address}{page}{serving}"


def models(infos: Sequence[ModelInfo]) -> Table:
    """A row per model."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("model", "state", "family"):
        table.add_column(title, no_wrap=True)
    for title in ("layers", "d", "heads", "vocab", "params", "context"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    colours = {"serving": "green", "loading": "yellow", "failed": "red"}
    for info in infos:
        sizes = info.sizes
        table.add_row(
            Text(info.name, style="bold"),
            Text(info.state, style=colours.get(info.state, "")),
            info.family,
            str(sizes.layers),
            str(sizes.dimensions),
            f"{sizes.heads}/{sizes.kv_heads}",
            str(sizes.vocabulary),
            count(sizes.parameters),
            str(info.limits.max_model_tokens),
            _dtype(info),
        )
    return table


def heading(text: str) -> Padding:
    """A line that begins a part of a longer output."""
    return Padding(Text(text, style="bold"), (1, 0, 1, 0))


def _dtype(model: ModelInfo) -> str:
    quantized = model.fingerprint.quantization not in {"", "none"}
    return model.fingerprint.dtype + (f"/{model.fingerprint.quantization}" if quantized else "")


def _numbers(model: ModelInfo) -> str:
    sizes = model.sizes
    return (
        f"{count(sizes.parameters)} parameters, {sizes.layers} layers, d {sizes.dimensions}, "
        f"{_dtype(model)}, context {model.limits.max_model_tokens}"
    )
