"""Ranges of positions."""

from __future__ import annotations

from headstream.server.errors import InvalidRequest
from headstream.v1 import internals_service_pb2 as pb


def parse_range(field: str, message: pb.PositionRange) -> tuple[int, int | None]:
    """[start, end); no end: as far as there are positions."""
    end = message.end if message.HasField("end") else None
    return check_range(field, message.start, end)


def check_range(field: str, start: int, end: int | None) -> tuple[int, int | None]:
    """The range, if it is not empty."""
    if end is not None and end <= start:
        raise InvalidRequest(field, f"[{start}, {end}) is empty")
    return start, end


def fit_range(field: str, start: int, end: int | None, length: int, what: str) -> tuple[int, int]:
    """The range with its end, if it lies in ``length`` positions of ``what``."""
    if start >= length or (end or 0) > length:
        upto = "" if end is None else str(end)
        raise InvalidRequest(field, f"[{start}, {upto}) is not in [0, {length}), {what}")
    return start, length if end is None else end
