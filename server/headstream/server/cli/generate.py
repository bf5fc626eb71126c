# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `--help` is quick
"""`headstream generate`: a continuation, streamed, with the likeliest next tokens if wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstream.server.cli.connect import DEFAULT_ADDRESS, Address, Ca, Model, Token, connected

if TYPE_CHECKING:
    from headstream.client import Client, Generation, Step
    from headstream.server.cli.views.generation import Candidate


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    *,
    address: Address = DEFAULT_ADDRESS,
    model: Model = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n")] = 32,
    logits: Annotated[
        int, typer.Option(help="Show the N likeliest next tokens of each step.", metavar="N")
    ] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Say it to a chat model, in its own template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="The system message before it; implies --chat.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="File with a JSON schema that the text keeps.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="The text matches it.")] = None,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw among the k likeliest; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among the fewest that reach this.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a draw.")] = None,
    n: Annotated[int, typer.Option("--n", help="Continuations, written one by one.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends it; repeatable.")] = None,
    tls_ca: Ca = None,
    token: Token = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per step, and one per continuation.")
    ] = False,
) -> None:
    """Continue a text, token by token."""
    with connected(address, tls_ca, token) as client:
        generation = client.generate(
            messages(prompt, system) if chat or system is not None else prompt,
            model=model,
            max_new_tokens=max_new_tokens,
            logits="top" if logits else "none",
            top_logits=logits or 1,
            logprobs=True,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            n=n,
            stop=stop or (),
            json_schema=None if json_schema is None else json_schema.read_text(),
            regex=regex,
        )
        names = TokenNames(client, model)
        if as_json:
            _write_json(generation, names)
        elif n > 1:
            _show_several(prompt, generation, names)
        else:
            show(prompt, generation, names)


def messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    """A chat of one question."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


class TokenNames:
    """The text of single tokens, each asked for once."""

    def __init__(self, client: Client, model: str = "") -> None:
        self._client = client
        self._model = model
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        if token_id not in self._known:
            self._known[token_id] = self._client.detokenize(
                [token_id], model=self._model, skip_special_tokens=False
            )
        return self._known[token_id]


def show(prompt: str, generation: Generation, names: TokenNames) -> None:
    """Print a continuation as it comes: steps with bars where there are logits, else its text.

    Args:
        prompt: What is continued.
        generation: Not yet begun to be read.
        names: Of tokens.
    """
    from rich.console import Console

    from headstream.server.cli.views import generation as views

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(views.prompt_and_text(prompt, ""), end="")
    with_steps = False
    for step in generation:
        found = candidates(step, names)
        if found:
            if not with_steps:
                console.print()
                with_steps = True
            console.print(views.step(step.index, found), end="")
        else:
            console.print(views.prompt_and_text("", step.text), end="", soft_wrap=True)
    if with_steps:
        console.print(views.prompt_and_text(prompt, generation.text), soft_wrap=True)
    else:
        console.print(views.prompt_and_text("", generation.tail), soft_wrap=True)
    _summarize(generation)


def _show_several(prompt: str, generation: Generation, names: TokenNames) -> None:
    """Print all continuations, one after the other, when they have ended."""
    from rich.console import Console

    from headstream.server.cli.views import generation as views

    console = Console(highlight=False)
    steps = list(generation)
    for each in generation.continuations:
        console.print(views.heading(each.index, each.seed))
        for step in steps:
            if step.continuation == each.index and (found := candidates(step, names)):
                console.print(views.step(step.index, found), end="")
        console.print(views.prompt_and_text(prompt, each.text), soft_wrap=True)
    _summarize(generation)


def _summarize(generation: Generation) -> None:
    from rich.console import Console

    from headstream.server.cli.views import generation as views

    if generation.usage is not None and generation.timings is not None:
        reasons = dict.fromkeys(
            each.finish_reason or "unknown" for each in generation.continuations
        )
        line = views.summary(generation.usage, generation.timings, ", ".join(reasons))
        Console(stderr=True, highlight=False).print(line)


def candidates(step: Step, names: TokenNames) -> list[Candidate]:
    """The likeliest tokens of a step's log-probabilities, likeliest first; none without them.

    A token that was drawn from further down comes last.
    """
    import numpy as np

    from headstream.client import TopLogits
    from headstream.server.cli.views.generation import Candidate

    if not isinstance(step.logits, TopLogits):
        return []
    shares = dict(
        zip(step.logits.token_ids.tolist(), np.exp(step.logits.values).tolist(), strict=True)
    )
    if step.logprob is not None:
        shares.setdefault(step.token_id, float(np.exp(step.logprob)))
    return [
        Candidate(token, names[token], share, token == step.token_id)
        for token, share in shares.items()
    ]


def _write_json(generation: Generation, names: TokenNames) -> None:
    for step in generation:
        line = {
            "continuation": step.continuation,
            "index": step.index,
            "token_id": step.token_id,
            "text": step.text,
            "logprob": step.logprob,
        }
        found = candidates(step, names)
        top = [
            {"token_id": item.token_id, "text": item.text, "probability": item.probability}
            for item in found
        ]
        typer.echo(json.dumps({**line, "top": top} if top else line, ensure_ascii=False))
    for each in generation.continuations:
        whole = {
            "continuation": each.index,
            "text": each.text,
            "finish_reason": each.finish_reason,
            "seed": each.seed,
            "request_id": generation.request_id,
        }
        typer.echo(json.dumps(whole, ensure_ascii=False))
