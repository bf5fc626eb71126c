"""The message that opens a stream both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from headstream.server.errors import SessionExpired

Request = TypeVar("Request")


async def first_request(
    requests: AsyncIterator[Request], idle_seconds: float, what: str
) -> Request | None:
    """The first message; None: the client wants nothing after all.

    ``what``: the word for what is waited for.

    Raises:
        SessionExpired: It does not come.
    """
    timer = asyncio.timeout(idle_seconds)
    try:
        async with timer:
            return await anext(requests, None)
    except TimeoutError:
        if timer.expired():
            raise SessionExpired(f"no {what} for {idle_seconds:g} s") from None
        raise
