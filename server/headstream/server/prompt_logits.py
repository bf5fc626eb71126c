"""The rows of logits behind every token of several prompts of one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from headstream.model.outputs import LogitsSpec, Outputs, ScoreSpec
from headstream.server.admission import Ticket
from headstream.server.call import current_call
from headstream.server.errors import InvalidRequest
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.sequence_run import run_sequence, tokenize_prompts
from headstream.server.together import gather
from headstream.server.wire.inputs import least_tokens, parse_input
from headstream.v1 import types_pb2

Rows = tuple[NDArray[np.float32], NDArray[np.int32]]

_BEHIND = 0  # any token: what is scored is the row before it


async def prompt_logits(
    model: LoadedModel,
    metrics: Metrics,
    field: str,
    inputs: Sequence[types_pb2.Input],
    logits: LogitsSpec,
    *,
    check_size: Callable[[int], None],
) -> Rows:
    """The rows of n prompts of L tokens, float32 [n, L, k], and their token ids, int32 [n, L, k].

    Whole rows are [n, L, V], and have no ids: [n, L, 0]. The last row of a prompt is that of its
    next token.

    Args:
        model: Computes them.
        metrics: Counts them.
        field: The word for the prompts in errors; with one that is wrong none is run.
        inputs: The prompts.
        logits: Which entries of a row, in float32.
        check_size: Told L before any work; raises if the reply would be too large.

    Raises:
        InvalidRequest: A prompt is too long, or not as long as the first.
    """
    limits = model.limits
    parsed = [parse_input(f"{field}[{i}]", each, limits) for i, each in enumerate(inputs)]
    least = sum(least_tokens(each, limits) for each in inputs)
    with model.queue.enter(len(parsed), least_tokens=least) as tickets:
        prompts = await tokenize_prompts(model, field, parsed)
        length = len(prompts[0])
        for i, prompt in enumerate(prompts):
            if len(prompt) != length:
                told = f"{len(prompt)} tokens, and {field}[0] {length}; must be equally many"
                raise InvalidRequest(f"{field}[{i}]", f"has {told} for the logits of all")
        check_size(length)
        model.queue.charge(tickets, [length + 1] * len(prompts))
        rows = await gather(
            [
                _run(model, metrics, ticket, prompt.ids, logits)
                for ticket, prompt in zip(tickets, prompts, strict=True)
            ]
        )
    values, ids = zip(*rows, strict=True)
    return np.stack(values), np.stack(ids)  # [n, L, k] both


async def _run(
    model: LoadedModel,
    metrics: Metrics,
    ticket: Ticket,
    prompt: tuple[int, ...],
    logits: LogitsSpec,
) -> Rows:
    """Of one prompt: [L, k] both."""
    values: list[bytes] = []
    ids: list[bytes] = []
    outputs = Outputs(score=ScoreSpec(1, logits))
    events = run_sequence(model, metrics, ticket, (*prompt, _BEHIND), outputs=outputs)
    async with aclosing(events):
        async for event in events:
            if event.scores is not None and event.scores.logits is not None:
                values.append(event.scores.logits.data)
                ids.append(event.scores.logits_ids)
    data = b"".join(values)
    metrics.count_reply(current_call(), model.name, "logits", len(data))
    return (
        np.frombuffer(data, "<f4").reshape(len(prompt), -1),
        np.frombuffer(b"".join(ids), "<i4").reshape(len(prompt), -1),
    )
