"""What gRPC knows of a call."""

from __future__ import annotations

import math
import re
import uuid
from typing import Any, cast

import grpc
import grpc.aio

from headstream.access.failure import REQUEST_ID_KEY

Context = grpc.aio.ServicerContext[Any, Any]

_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def request_id(context: Context) -> str:
    """The caller's own id if it is harmless to repeat and to log, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _WELL_FORMED_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def remaining(context: Context) -> float | None:
    """Seconds to the caller's deadline; None where it set none."""
    left = cast(float | None, context.time_remaining())  # typed without None
    return left if left is not None and math.isfinite(left) else None


def code_name(context: Context) -> str:
    """Name of the code that the handler itself has set."""
    code = cast(object, context.code())  # typed as StatusCode, but may be its number
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES[code].name if isinstance(code, int) and code in _CODES else "UNKNOWN"
