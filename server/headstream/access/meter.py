"""How much a tenant has asked for lately."""

from __future__ import annotations

import time
from collections.abc import Callable

from headstream.access.refusal import quota_exceeded
from headstream.access.tokens import Quota

Clock = Callable[[], float]  # seconds


class Bucket:
    """Fills at a rate, up to what comes in a second; below nothing where more was spent."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self.rate = rate
        self._clock = clock
        self._size = max(1.0, rate)
        self._level = self._size
        self._filled = clock()

    def seconds_until_one(self) -> float:
        """Until there is one in it; 0: now."""
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._filled) * self.rate)
        self._filled = now
        return max(0.0, (1 - self._level) / self.rate)

    def spend(self, amount: float) -> None:
        """Take so many, there or not."""
        self._level -= amount


class Meter:
    """The counts of one tenant."""

    def __init__(
        self, tenant: str, quota: Quota, retry_after_s: float, clock: Clock = time.monotonic
    ) -> None:
        """``retry_after_s``: told where nobody knows when there will be room."""
        self._at_once = quota.requests_at_once
        self._tenant = tenant
        self._retry_after_s = retry_after_s
        self._running = 0
        self._requests = _bucket(quota.requests_per_second, clock)
        self._tokens = _bucket(quota.tokens_per_second, clock)

    def enter(self) -> None:
        """Count a call that begins.

        Raises:
            Refusal: A quota is used up; nothing is counted.
        """
        limit = self._at_once
        if limit is not None and self._running >= limit:
            raise quota_exceeded("requests_at_once", limit, self._tenant, self._retry_after_s)
        for name, bucket in (
            ("requests_per_second", self._requests),
            ("tokens_per_second", self._tokens),
        ):
            if bucket is not None and (seconds := bucket.seconds_until_one()) > 0:
                raise quota_exceeded(name, bucket.rate, self._tenant, seconds)
        self._running += 1
        if self._requests is not None:
            self._requests.spend(1)

    def leave(self, num_tokens: int) -> None:
        """A call has ended, which read and generated so many tokens."""
        self._running -= 1
        if self._tokens is not None:
            self._tokens.spend(num_tokens)


def _bucket(rate: float | None, clock: Clock) -> Bucket | None:
    return None if rate is None else Bucket(rate, clock)
