"""How urgent a request is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from headstream.v1 import types_pb2

PriorityName: TypeAlias = Literal["batch", "normal", "high"]

_PRIORITIES: Mapping[str, types_pb2.Priority.ValueType] = {
    "batch": types_pb2.PRIORITY_BATCH,
    "normal": types_pb2.PRIORITY_UNSPECIFIED,
    "high": types_pb2.PRIORITY_HIGH,
}


def to_message(priority: PriorityName) -> types_pb2.Priority.ValueType:
    """What the contract calls it.

    Raises:
        ValueError: It is an unknown word.
    """
    if priority not in _PRIORITIES:
        raise ValueError(f"priority {priority!r} is none of {', '.join(_PRIORITIES)}")
    return _PRIORITIES[priority]
