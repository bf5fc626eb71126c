# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream embed FILE -o OUTPUT`: the vectors of every line of a file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headstream.server.cli.part_file import SOURCE, PartFile
from headstream.server.cli.vector_file import check_output, write_vectors

if TYPE_CHECKING:
    from headstream.client import Client, EmbedAnswer, EmbedOptions, Fingerprint

_BROKEN = "INTERNAL"
"""What the server says where nothing that is known of is in the way of a line."""


def is_file(text: str) -> bool:
    """Whether a text is the name of a file."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or none
        return False


def embed_file(
    client: Client, source: Path, output: Path, model: str, options: EmbedOptions
) -> None:
    """Write the vectors of all lines. A run that was cut goes on where it was.

    Raises:
        ValueError: The output cannot be written, or is being made by a run that differs; or there
            are lines that the server failed at, which the same command tries again.
        typer.Exit: With 1, at the end, if there are lines without a vector.
    """
    check_output(output)
    digest, num_lines = _look_at(source)
    served = client.model(model)
    run = {
        SOURCE: digest,
        "model": served.name,
        "fingerprint": dataclasses.asdict(served.fingerprint),
        "options": dict(options),
    }
    with PartFile(output.with_name(output.name + ".part"), run, num_lines) as part:
        if done := sum(part.done):
            typer.echo(f"going on: {done} of {num_lines} lines are done", err=True)
        try:
            _run(client, source, part, served.name, options)
        except Exception:
            if any(part.done):
                typer.echo("hint: the same command goes on where this one ended", err=True)
            raise
        num_errors = len(part.errors())
        write_vectors(part, output)
    typer.echo(f"{output}: {num_lines} lines", err=True)
    if part.num_truncated:
        typer.echo(f"{part.num_truncated} of them were too long and were cut", err=True)
    if num_errors:
        told = f"{num_errors} of them have no vector: see {output}.errors.jsonl"
        typer.echo(told, err=True)
        raise typer.Exit(1)


def _run(client: Client, source: Path, part: PartFile, model: str, options: EmbedOptions) -> None:
    """Embed the lines that are not done yet.

    Those at which the server fails are tried once more at the end, each alone. One at which it
    breaks again is done, as an error: else no run would ever come to an end.

    Raises:
        ValueError: The vectors are of another model, or lines are not done, by a server's fault.
    """
    from headstream.client import FailedItem

    embed = partial(_embed, client, client.model(model).fingerprint, model, options)
    with _bar(part) as advance:
        for answer in embed(_left(source, part)):
            if not (isinstance(answer.result, FailedItem) and answer.result.passing):
                _keep(part, answer)
                advance()
        for line in _left(source, part):
            for answer in embed([line]):
                fault = answer.result
                if isinstance(fault, FailedItem) and fault.passing and fault.reason != _BROKEN:
                    count = part.done.count(0)
                    what = f"the server had a fault at {count} lines, which are not done; the first"
                    raise ValueError(f"{what}: {fault.message}")
                _keep(part, answer)
                advance()


def _embed(
    client: Client,
    fingerprint: Fingerprint,
    model: str,
    options: EmbedOptions,
    lines: Iterable[tuple[int, str]],
) -> Iterator[EmbedAnswer[int]]:
    # Nobody waits for a single line: who waits for a text of his own goes first.
    wanted: EmbedOptions = {**options, "priority": "batch"}
    with client.embed_stream(lines, model=model, **wanted) as stream:
        for answer in stream:
            if stream.fingerprint != fingerprint:
                raise ValueError(f"the answers come from {stream.fingerprint}, not {fingerprint}")
            yield answer


def _keep(part: PartFile, answer: EmbedAnswer[int]) -> None:
    from headstream.client import FailedItem

    line, vector = answer
    if isinstance(vector, FailedItem):
        part.add_error(line, vector.reason, vector.message)
    else:
        part.add_vector(
            line,
            vector.dtype.str,
            list(vector.shape),
            vector.tobytes(),
            truncated=answer.truncated,
        )


def _left(source: Path, part: PartFile) -> Iterator[tuple[int, str]]:
    """The lines that are not done yet."""
    return ((line, text) for line, text in _lines(source) if not part.done[line])


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    """Number and text. Bytes that are not UTF-8 become what no message takes: that line fails."""
    with source.open("rb") as file:
        for number, line in enumerate(file):
            yield number, line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")


def _look_at(source: Path) -> tuple[str, int]:
    """SHA-256 and number of lines."""
    digest, count = hashlib.sha256(), 0
    with source.open("rb") as file:
        for line in file:
            digest.update(line)
            count += 1
    return digest.hexdigest(), count


@contextmanager
def _bar(part: PartFile) -> Generator[Callable[[], None]]:
    """A progress bar where stderr is a terminal; call what it gives for every line."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("lines", total=len(part.done), completed=sum(part.done))
        yield lambda: bar.advance(task)
