"""One request to look inside: an input run with what is asked of it, from its start to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headstream.server.call import current_call
from headstream.server.engine.stream import Event
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.patches import make_edits
from headstream.server.sequence_run import run_sequence, tokenize
from headstream.server.wire.budget import check_budget, check_kept
from headstream.server.wire.interventions import Change
from headstream.server.wire.looks import LookCall, to_start
from headstream.v1 import internals_service_pb2 as pb


async def run_look(
    model: LoadedModel, metrics: Metrics, asked: LookCall, changes: Sequence[Change]
) -> AsyncGenerator[pb.TraceStart | Event | pb.TraceEnd]:
    """A start, what the engine tells step by step, an end.

    Raises:
        ReplyTooLarge: Before any work.
    """
    call = current_call()
    with model.queue.enter() as tickets:
        tokens = await tokenize(model, asked.input)
        fitted = asked.fit(len(tokens), model.limits)
        check_budget(fitted.tensor_bytes, model.limits, asked.max_reply_bytes)
        check_kept(fitted.kept_bytes, model.limits)
        model.queue.charge(tickets, [len(tokens)])
        edits = await make_edits(model, metrics, changes, tickets)
        events = run_sequence(
            model,
            metrics,
            tickets[0],
            tokens.ids,
            look=fitted.look,
            edits=edits,
            max_new_tokens=fitted.max_new_tokens,
            stop_token_ids=model.ready.eos_ids,
        )
        async with aclosing(events):
            yield to_start(call.request_id, model.name, model.ready, tokens, fitted.tensor_bytes)
            async for event in events:
                yield event
        yield pb.TraceEnd(usage=call.usage(), timings=call.timings())
