# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream lookup serve`: documents found by their vectors, beside a Headstream server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Model, Token

if TYPE_CHECKING:
    from headstream.lookup.identity import Identity

lookup = typer.Typer(help="Documents kept and found by their vectors.", no_args_is_help=True)


@lookup.callback()
def _group() -> None:
    """Documents kept and found by their vectors."""


@lookup.command()
def serve(
    store: Annotated[
        str, typer.Option(help="Folder of the documents, or a URL such as s3://bucket/path.")
    ],
    *,
    address: Address = DEFAULT_ADDRESS,
    model: Model = "",
    tls_ca: Ca = None,
    token: Token = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 50061,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate; turns TLS on.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authorities whose clients are let in.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plaintext where other machines can reach it.")
    ] = False,
    tokens: Annotated[
        Path | None,
        typer.Option(help="TOML file of bearer tokens; `headstream token new` makes an entry."),
    ] = None,
    reload_interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between looks at the TLS files and the tokens.")
    ] = 5.0,
    reflection: Annotated[bool, typer.Option(help="Serve grpc.reflection.")] = True,
    storage_option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for object storage; may be repeated.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="File of the vectors known by their text.")
    ] = None,
    chunk_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a chunk.")] = 64,
    events: Annotated[bool, typer.Option("--events", help="JSON lines, for programs.")] = False,
) -> None:
    """Serve LookupService with the vectors of the Headstream server at ADDRESS."""
    import asyncio

    try:
        from headstream.lookup.errors import StartError
        from headstream.lookup.serve import serve as serve_lookup
        from headstream.lookup.settings import Settings
    except ModuleNotFoundError as error:
        typer.echo(f"error: {error.name} is missing: pip install 'headstream[lookup]'", err=True)
        raise typer.Exit(1) from None
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-cert and --tls-key")
    settings = Settings(
        store=store,
        server=address,
        model=model,
        server_ca=tls_ca,
        server_token=token,
        storage_options=_options(storage_option or []),
        cache=cache,
        chunk_tokens=chunk_tokens,
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        insecure=insecure,
        tokens=tokens,
        reload_interval=reload_interval,
        reflection=reflection,
    )

    def on_ready(where: str, identity: Identity) -> None:
        if events:
            typer.echo(json.dumps({"event": "ready", "address": where}))
        else:
            name = identity.fingerprint.model
            typer.echo(f"lookup ready at {where}: {store}, vectors of {name} at {address}")

    try:
        asyncio.run(serve_lookup(settings, on_ready))
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _options(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"--storage-option {pair}: must be KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
