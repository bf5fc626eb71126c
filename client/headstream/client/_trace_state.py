"""A Trace stream put together: events in, tokens and one result out. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from headstream.client import _status
from headstream.client._read_text import read_text
from headstream.client._tensors import to_array
from headstream.client._trace import Trace, TracedToken

if TYPE_CHECKING:
    from headstream.client._results import Array
    from headstream.client._sites import SiteName
    from headstream.v1 import internals_service_pb2 as pb


_Places: TypeAlias = "tuple[SiteName, tuple[int, ...]]"
_Part: TypeAlias = "tuple[int, Array]"  # first row, rows [layers, rows, ..]


class TraceState:
    """Fed with the events of a stream, gives the result when the end event has come.

    What came is taken apart by layers only when it is asked for, so that a step costs the reader
    of all of it the same however many layers it has.
    """

    def __init__(self) -> None:
        # generated, and their values are here: position, id, the part of each place
        self._tokens: deque[tuple[int, int, dict[_Places, _Part]]] = deque()
        self._start: pb.TraceStart | None = None
        self._end: pb.TraceEnd | None = None
        self._parts: dict[_Places, list[_Part]] = {}
        self._num_bytes = 0
        self._generated: list[int] = []

    @property
    def reached(self) -> int | None:
        """Bytes of values that have come; None while the stream has not begun."""
        return self._num_bytes if self._start is not None else None

    @property
    def ended(self) -> bool:
        """Whether the end event has come."""
        return self._end is not None

    def feed(self, event: pb.TraceResponse) -> None:
        """Take in one event."""
        match event.WhichOneof("event"):
            case "start":
                self._start = event.start
            case "values":
                for chunk in event.values.chunks:
                    self._take_values(chunk)
                if event.values.HasField("generated_token_id"):
                    self._take_token(event.values.generated_token_id)
            case "generated_token_id":
                self._take_token(event.generated_token_id)
            case "end":
                self._end = event.end
                self._finish_token()
            case None:  # an event of a newer contract
                pass

    def _take_values(self, chunk: pb.SiteChunk) -> None:
        data = chunk.values.data  # a copy each time it is asked for
        self._num_bytes += len(data)
        values, layers = to_array(chunk.values, data), tuple(chunk.layers)  # [layers, rows, ..]
        if not layers:  # an older server, which tells each by itself
            values, layers = values[np.newaxis], (chunk.layer,)
        places = cast("SiteName", chunk.site), layers
        self._parts.setdefault(places, []).append((chunk.start, values))

    def _take_token(self, token_id: int) -> None:
        self._finish_token()  # its values come before the id of the next
        self._generated.append(token_id)

    def _finish_token(self) -> None:
        if not self._generated:
            return
        assert self._start is not None, "a token came before the start event"
        position = len(self._start.tokens.ids) + len(self._generated) - 1
        latest = {places: parts[-1] for places, parts in self._parts.items()}
        self._tokens.append((position, self._generated[-1], latest))

    def take(self) -> TracedToken | None:
        """The oldest generated token whose values are here and that was not taken yet."""
        if not self._tokens:
            return None
        position, token_id, latest = self._tokens.popleft()
        values: dict[tuple[SiteName, int], Array] = {
            (site, layer): rows[position - start]
            for (site, layers), (start, stacked) in latest.items()
            for layer, rows in zip(layers, stacked, strict=True)
            if start <= position < start + len(rows)
        }
        return TracedToken(position, token_id, values)

    def result(self) -> Trace:
        """The tokens and all values.

        Raises:
            StreamBroken: The end event, or values, have not come.
        """
        start, end = self._start, self._end
        if start is None or end is None or end.usage.tensor_bytes != self._num_bytes:
            raise _status.unfinished(self._num_bytes)
        by_layer: dict[tuple[SiteName, int], list[_Part]] = {}  # rows [rows, ..]
        for (site, layers), parts in self._parts.items():
            for first, values in parts:
                for layer, rows in zip(layers, values, strict=True):
                    by_layer.setdefault((site, layer), []).append((first, rows))
        return Trace(
            generated_ids=self._generated,
            start=min((parts[0][0] for parts in self._parts.values()), default=0),
            rows={key: _join(key[0], parts) for key, parts in by_layer.items()},
            rotary=start.rotary,
            **read_text(start, end),
        )


def _join(site: SiteName, parts: list[_Part]) -> Array:
    """Rows [rows, ..] of a layer put together; generated ones have more keys than those before."""
    arrays = [rows for _, rows in sorted(parts, key=lambda part: part[0])]
    width = max(rows.shape[-1] for rows in arrays)
    if all(rows.shape[-1] == width for rows in arrays):
        return np.concatenate(arrays)
    shape = (sum(len(rows) for rows in arrays), *arrays[0].shape[1:-1], width)
    unseen = -np.inf if site == "attn_scores" else 0.0
    joined: Array = np.full(shape, unseen, arrays[0].dtype)
    first = 0
    for rows in arrays:
        joined[first : first + len(rows), ..., : rows.shape[-1]] = rows
        first += len(rows)
    return joined
