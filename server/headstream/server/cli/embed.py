# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream embed`: vectors of texts, of their tokens, or of every line of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Model, Token, connected
from headstream.server.cli.embed_file import embed_file, is_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headstream.client import Client, EmbedOptions, EmbedResult, TextEmbedding

Pooling: TypeAlias = Literal["model", "mean", "last", "cls", "max"]
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "binary"]


def embed(
    texts: Annotated[
        list[str], typer.Argument(help="Texts; or a file with a text a line, with -o.")
    ],
    *,
    address: Address = DEFAULT_ADDRESS,
    model: Model = "",
    layer: Annotated[
        list[int] | None,
        typer.Option(help="0: embedding output, -1: after the final norm; repeat with --tokens."),
    ] = None,
    pooling: Annotated[Pooling, typer.Option(help="From tokens to one vector.")] = "model",
    prompt: Annotated[str | None, typer.Option(help="Put before each text.")] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="One of the model's own prompts instead.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Keep the first ones only (Matryoshka).")
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the vectors; the scales of int8 are in --json.")
    ] = "float32",
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts that are too long, and say so.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the vectors as .npy; of a file also .parquet."),
    ] = None,
    tls_ca: Ca = None,
    token: Token = None,
    tokens: Annotated[bool, typer.Option(help="A vector per token instead of per text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Turn texts into vectors, and show how near they are to each other.

    With -o, the name of a file stands for its lines. A run that was cut goes on where it was.
    """
    layers = layer or [-1]
    if tokens and len(texts) != 1:
        raise typer.BadParameter("--tokens takes one text")
    if prompt is not None and prompt_name is not None:
        raise typer.BadParameter("give one of --prompt and --prompt-name")
    if tokens and (prompt is not None or prompt_name is not None):
        raise typer.BadParameter("prompts do not go with --tokens")
    if tokens and (dimensions is not None or dtype != "float32" or truncate):
        raise typer.BadParameter("--dimensions, --dtype and --truncate do not go with --tokens")
    if not tokens and len(layers) != 1:
        raise typer.BadParameter("several layers go with --tokens")
    options: EmbedOptions = {
        "layer": layers[0],
        "pooling": pooling,
        "prompt": prompt,
        "prompt_name": prompt_name,
        "dimensions": dimensions,
        "dtype": dtype,
        "truncate": truncate,
    }
    whole_file = output is not None and len(texts) == 1 and not tokens and is_file(texts[0])
    if whole_file and as_json:
        raise typer.BadParameter("--json does not go with a file")
    if not whole_file and output is not None and output.suffix == ".parquet":
        raise typer.BadParameter(
            "the vectors of a file of texts are written as .parquet, no others"
        )
    with connected(address, tls_ca, token) as client:
        if whole_file and output is not None:
            embed_file(client, Path(texts[0]), output, model, options)
            return
        if tokens:
            vectors = _tokens(client, texts[0], model, layers, as_json=as_json)
        else:
            results = client.embed_each(texts, model=model, **options)
            vectors = _show_texts(texts, results, as_json=as_json)
    if output is not None:
        import numpy as np

        np.save(output, vectors)
        typer.echo(f"{output}: {vectors.dtype} {list(vectors.shape)}", err=True)


def _show_texts(texts: list[str], results: list[EmbedResult], *, as_json: bool) -> NDArray[Any]:
    """Show the cosines of the texts, or their vectors; returns these, [n, d].

    Raises:
        EmbedError: Some texts could not be embedded.
    """
    import numpy as np
    from rich.console import Console

    from headstream.client import EmbedError, TextEmbedding
    from headstream.server.cli.views import vectors as views

    embeddings = [result for result in results if isinstance(result, TextEmbedding)]
    if len(embeddings) < len(results):
        raise EmbedError([item for item in results if not isinstance(item, TextEmbedding)])
    if as_json:
        for text, embedding in zip(texts, embeddings, strict=True):
            typer.echo(json.dumps(_to_line(text, embedding), ensure_ascii=False))
    else:
        values = np.stack([embedding.to_float32() for embedding in embeddings])
        Console(highlight=False).print(views.similarities(texts, values))
    for index, embedding in enumerate(embeddings):
        if embedding.truncated:
            typer.echo(f"text {index} was cut to {embedding.num_tokens} tokens", err=True)
    return np.stack([embedding.vectors for embedding in embeddings])


def _to_line(text: str, embedding: TextEmbedding) -> dict[str, Any]:
    line: dict[str, Any] = {"text": text, "vector": embedding.vectors.tolist()}
    if embedding.scales is not None:
        line["scale"] = float(embedding.scales)
    if embedding.truncated:
        line["truncated_to"] = embedding.num_tokens
    return line


def _tokens(
    client: Client, text: str, model: str, layers: list[int], *, as_json: bool
) -> NDArray[Any]:
    """Show the tokens of a text; returns [layers, n, d]."""
    from rich.console import Console

    from headstream.server.cli.views import vectors as views

    result = client.embed_tokens(text, model=model, layers=layers)
    if as_json:
        for index, token in enumerate(result.tokens):
            line = {
                "token": token,
                "token_id": result.token_ids[index],
                "offsets": result.offsets[index],
                "vectors": result.vectors[:, index].tolist(),
            }
            typer.echo(json.dumps(line, ensure_ascii=False))
    else:
        Console(highlight=False).print(views.tokens(result))
    return result.vectors
