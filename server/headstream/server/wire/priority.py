"""How urgent a request says it is."""

from __future__ import annotations

from headstream.server.engine.priority import Priority
from headstream.server.errors import InvalidRequest
from headstream.v1 import types_pb2


def parse_priority(field: str, value: types_pb2.Priority.ValueType) -> Priority:
    """The priority; NORMAL where nothing is said.

    Raises:
        InvalidRequest: It is none that this server knows.
    """
    if value == types_pb2.PRIORITY_UNSPECIFIED:
        return Priority.NORMAL
    try:
        return Priority(value)
    except ValueError:
        raise InvalidRequest(field, f"{value} is not in [0, {max(Priority)}]") from None
