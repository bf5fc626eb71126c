"""What comes next after each of several prompts: a token, and the row of logits behind it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from headstream.model.outputs import LogitsSpec, Outputs
from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.engine.stream import TokenEvent
from headstream.server.errors import EngineFault
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.sequence_run import run_sequence, tokenize_prompts
from headstream.server.together import gather
from headstream.server.wire.inputs import parse_input
from headstream.v1 import types_pb2


async def next_tokens(
    model: LoadedModel,
    metrics: Metrics,
    field: str,
    inputs: Sequence[types_pb2.Input],
    logits: LogitsSpec,
) -> list[TokenEvent]:
    """One event per prompt, in their order; the token is the likeliest.

    ``field``: the word for the prompts in errors; with one that is wrong none is run.
    """
    parsed = [parse_input(f"{field}[{i}]", each, model.limits) for i, each in enumerate(inputs)]
    with model.queue.enter(len(parsed)) as tickets:
        prompts = await tokenize_prompts(model, field, parsed)
        model.queue.charge(tickets, [len(prompt) for prompt in prompts])
        return await gather(
            [
                _run(model, metrics, ticket, prompt.ids, logits)
                for ticket, prompt in zip(tickets, prompts, strict=True)
            ]
        )


async def _run(
    model: LoadedModel,
    metrics: Metrics,
    ticket: Ticket,
    prompt: tuple[int, ...],
    logits: LogitsSpec,
) -> TokenEvent:
    token: TokenEvent | None = None
    outputs = Outputs(logits=logits, logprob=False)
    events = run_sequence(model, metrics, ticket, prompt, max_new_tokens=1, outputs=outputs)
    async with aclosing(events):
        async for event in events:
            token = event.token or token
    if token is None:
        raise EngineFault("the engine ended a prompt without its next token")
    if token.logits is not None:
        metrics.count_reply(current_call(), model.name, "logits", len(token.logits.data))
    return token
