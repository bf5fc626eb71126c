"""Changes to the model for one request, made ready: what is patched in is computed first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from headstream.model.sites import Edit
from headstream.server.admission import Ticket
from headstream.server.engine.look import Look
from headstream.server.errors import EngineFault
from headstream.server.metrics import Metrics
from headstream.server.models import LoadedModel
from headstream.server.offsets import TokenizedText
from headstream.server.sequence_run import run_sequence, tokenize
from headstream.server.together import gather
from headstream.server.wire.interventions import (
    Change,
    Patch,
    Place,
    check_bytes,
    check_values,
    patch_bytes,
    patch_trace,
)


@dataclass(frozen=True, slots=True)
class _Source:
    """Another input, ready to run."""

    patch: Patch
    tokens: TokenizedText
    place: Place


async def make_edits(
    model: LoadedModel,
    metrics: Metrics,
    changes: Sequence[Change],
    own: Sequence[Ticket] = (),
) -> tuple[Edit, ...]:
    """The changes as the engine takes them.

    The inputs that values are patched in from run side by side; they count in the queue like any.
    ``own``: the places of the request, which it keeps meanwhile.

    Raises:
        InvalidRequest: Such an input does not have the positions, or its values are too many or
            too large, or the inputs could never wait in the queue beside the request.
    """
    patches = [change for change in changes if isinstance(change, Patch)]
    made = iter(await _run_patches(model, metrics, patches, changes, own) if patches else [])
    return tuple(next(made) if isinstance(change, Patch) else change for change in changes)


async def _run_patches(
    model: LoadedModel,
    metrics: Metrics,
    patches: Sequence[Patch],
    changes: Sequence[Change],
    own: Sequence[Ticket],
) -> list[Edit]:
    field = patches[0].field.partition("[")[0]
    model.queue.check_beside(field, own, len(patches), len(patches))  # each has a token
    with model.queue.enter(len(patches), own) as tickets:
        sources = await gather([_prepare(model, patch) for patch in patches])
        given = [len(change.values) for change in changes if isinstance(change, Edit)]
        check_bytes(field, given + [patch_bytes(each.place) for each in sources], model.limits)
        num_tokens = [len(each.tokens) for each in sources]
        model.queue.check_beside(field, own, len(patches), sum(num_tokens))
        model.queue.charge(tickets, num_tokens)
        return await gather(
            [
                _run(model, metrics, ticket, source)
                for ticket, source in zip(tickets, sources, strict=True)
            ]
        )


async def _prepare(model: LoadedModel, patch: Patch) -> _Source:
    tokens = await tokenize(model, patch.source)
    return _Source(patch, tokens, patch.fit(len(tokens), model.limits))


async def _run(model: LoadedModel, metrics: Metrics, ticket: Ticket, source: _Source) -> Edit:
    """The values of the other input at the place, [layers, rows, width]."""
    place = source.place
    assert place.end is not None, "it has been fitted"
    rows = place.end - place.start
    width = max(1, len(place.heads)) * place.shape.width
    values = np.empty((len(place.layers), rows, width), "<f4")
    missing = len(place.layers) * rows
    look = Look(trace=patch_trace(place))
    events = run_sequence(model, metrics, ticket, source.tokens.ids, look=look)
    async with aclosing(events):
        async for event in events:
            for part in event.seen.sites if event.seen else ():
                shape = (len(part.layers), part.values.shape[1], width)
                part_rows = np.frombuffer(part.values.data, "<f4").reshape(shape)
                first = part.start - place.start
                layers = [place.layers.index(layer) for layer in part.layers]
                values[layers, first : first + shape[1]] = part_rows
                missing -= shape[0] * shape[1]
    if missing:
        raise EngineFault("the engine ended an input that is patched from without its values")
    check_values(f"{source.patch.field}.patch_from", values, model.limits)
    return place.edit("set", values=values.tobytes())
