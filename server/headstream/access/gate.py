"""Which calls are let in: by the token they bring, its scopes, and the quotas of its tenant.

The health service asks for no token: load balancers have none, and it tells no more than a
connection does. Reflection wants a token, whatever its scopes. Each service of the contract wants
the scope of its name, and that of the Open Inference Protocol wants ``inference``. A token that is
taken out of the file begins no more calls; those that run go on to their end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from headstream.access.files import WatchedFiles
from headstream.access.meter import Meter
from headstream.access.refusal import no_token, scope_missing, unknown_token
from headstream.access.tokens import Token, find, read_tokens

_HEALTH = "/grpc.health."
_METHOD = re.compile(
    r"/(?:headstream\.v1\.([A-Za-z]+)|inference\.GRPC(Inference))Service/[A-Za-z]+"
)
_BEARER = re.compile(r"[Bb]earer ([!-~]+)")

Metadata = Iterable[tuple[str, str | bytes]]


class Grant:
    """A call that was let in."""

    def __init__(
        self, tenant: str = "", meter: Meter | None = None, max_priority: str | None = None
    ) -> None:
        """``meter``: of its tenant; None where nobody is asked for a token."""
        self.tenant = tenant
        self.max_priority = max_priority
        self._meter = meter

    def close(self, num_tokens: int = 0) -> None:
        """The call has ended; it read and generated so many tokens."""
        if self._meter is not None:
            self._meter.leave(num_tokens)


class Gate:
    """Lets calls in."""

    def __init__(self, path: Path | None, retry_after_s: float) -> None:
        """``path``: the file of tokens; None: everybody is let in.

        Raises:
            FileError: The file cannot be used.
        """
        self._path = path
        self._retry_after_s = retry_after_s
        self._meters: dict[Token, Meter] = {}
        self.files = [] if path is None else [WatchedFiles("tokens", [path], self._read)]

    def admit(self, method: str, metadata: Metadata) -> Grant:
        """Let a call in, which is then to be closed.

        Raises:
            Refusal: It is not let in.
        """
        if self._path is None or method.startswith(_HEALTH):
            return Grant()
        meters = self._meters  # another thread may replace them
        token = find(meters, _token_of(metadata))
        if token is None:
            raise unknown_token()
        scope = scope_of(method)
        if scope is not None and scope not in token.scopes:
            raise scope_missing(scope, token.name)
        meters[token].enter()
        return Grant(token.name, meters[token], token.max_priority)

    def _read(self) -> None:
        assert self._path is not None
        before = {(token.name, token.quota): meter for token, meter in self._meters.items()}
        self._meters = {
            # Counts go on where the quota has not changed.
            token: before.get((token.name, token.quota))
            or Meter(token.name, token.quota, self._retry_after_s)
            for token in read_tokens(self._path)
        }


def scope_of(method: str) -> str | None:
    """The scope that a method wants; None: any token will do."""
    found = _METHOD.fullmatch(method)
    return (found[1] or found[2]).lower() if found else None


def _token_of(metadata: Metadata) -> str:
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        raise no_token()
    found = _BEARER.fullmatch(values[0])
    if found is None:
        raise no_token()
    return found[1]
