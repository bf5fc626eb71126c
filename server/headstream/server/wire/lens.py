"""LogitLens requests, and the events with their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headstream.model.outputs import LogitsSpec
from headstream.model.sites import LensSpec
from headstream.server.engine.look import Look
from headstream.server.engine.stream import LensEvent, WireTensor
from headstream.server.limits import Limits
from headstream.server.wire.budget import check_message
from headstream.server.wire.fields import check_distinct
from headstream.server.wire.inputs import ParsedInput, check_length, parse_input
from headstream.server.wire.layers import FINAL, resolve_layers
from headstream.server.wire.logits import parse_logits
from headstream.server.wire.looks import FittedLook
from headstream.server.wire.positions import fit_range, parse_range
from headstream.server.wire.tensors import ITEM_BYTES, put_tensor, to_array
from headstream.v1 import internals_service_pb2 as pb
from headstream.v1 import logits_service_pb2 as logits_pb


@dataclass(frozen=True, slots=True)
class LensCall:
    """A checked request."""

    input: ParsedInput
    layers: tuple[int, ...]
    start: int
    end: int | None
    logits: LogitsSpec
    max_reply_bytes: int | None

    def fit(self, num_tokens: int, limits: Limits) -> FittedLook:
        """The spec and its bytes for an input of so many tokens."""
        check_length("input", num_tokens, limits)
        what = "the positions of the input"
        start, end = fit_range("positions", self.start, self.end, num_tokens, what)
        row_bytes = self.logits.row_values(limits.d_vocab) * ITEM_BYTES[self.logits.dtype]
        check_message(row_bytes, limits, "a row of logits")
        spec = LensSpec(self.layers, start, end, self.logits)
        rows = len(self.layers) * (end - start)
        kept = rows * limits.d_model * 4  # of the stream, float32 at most
        return FittedLook(Look(lens=spec), rows * row_bytes, kept)


def parse_lens(request: pb.LogitLensRequest, limits: Limits) -> LensCall:
    """The request, if every field keeps its limits."""
    start, end = parse_range("positions", request.positions)
    options = logits_pb.LogitsOptions()
    options.CopyFrom(request.logits)
    if options.mode == logits_pb.LOGITS_MODE_UNSPECIFIED:
        options.mode = logits_pb.LOGITS_MODE_TOP_K
    return LensCall(
        input=parse_input("input", request.input, limits),
        layers=_parse_layers("layers.layers", request.layers.layers, limits.n_layers),
        start=start,
        end=end,
        logits=parse_logits("logits", options, limits),
        max_reply_bytes=request.max_reply_bytes if request.HasField("max_reply_bytes") else None,
    )


def _parse_layers(field: str, layers: Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Layers 0 to L, ascending; the final norm is put on every one, so the last has it too."""
    resolved = resolve_layers(field, layers, n_layers)
    named = [n_layers if layer == FINAL else layer for layer in resolved]
    check_distinct(field, named)
    return tuple(sorted(named)) or tuple(range(n_layers + 1))


def lens_events(events: Iterable[LensEvent]) -> Iterator[pb.LogitLensResponse]:
    """The rows of a step, one a message."""
    for event in events:
        num_rows = event.logits.shape[0]
        ids = np.frombuffer(event.logits_ids, "<i4").reshape(num_rows, -1)  # [n, k], or [n, 0]
        for row in range(num_rows):
            reply = pb.LogitLensResponse()
            reply.row.layer, reply.row.position = event.layer, event.start + row
            values = to_array(event.logits)[row]
            logits = WireTensor(event.logits.dtype, values.shape, values.tobytes())
            put_tensor(reply.row.logits.values, logits)
            reply.row.logits.token_ids.extend(ids[row].tolist())
            yield reply
