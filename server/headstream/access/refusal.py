"""Why a call is not let in, in words for the caller: they name the scope or the quota, no more.

NO_TOKEN        UNAUTHENTICATED     the call brings none
UNKNOWN_TOKEN   UNAUTHENTICATED     it is not in the file
SCOPE_MISSING   PERMISSION_DENIED   it is for other services
QUOTA_EXCEEDED  RESOURCE_EXHAUSTED  says when to try again
"""

from __future__ import annotations

import math

import grpc

Code = grpc.StatusCode


class Refusal(Exception):  # noqa: N818 - a refusal is what it is; services make errors of their own of it
    """A call that is not let in."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        tenant: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        """``tenant``: whose token it was, for the log."""
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.tenant = tenant
        self.retry_after_s = retry_after_s


def no_token() -> Refusal:
    """The call brings no token, or not in the form that is asked for."""
    message = "authorization: a token is needed, as `Bearer TOKEN`"
    return Refusal(Code.UNAUTHENTICATED, "NO_TOKEN", message)


def unknown_token() -> Refusal:
    """Nobody has this token."""
    return Refusal(Code.UNAUTHENTICATED, "UNKNOWN_TOKEN", "authorization: the token is not known")


def scope_missing(scope: str, tenant: str) -> Refusal:
    """The token is for other services."""
    message = f"scope: the token does not have {scope!r}"
    return Refusal(Code.PERMISSION_DENIED, "SCOPE_MISSING", message, tenant=tenant)


def quota_exceeded(quota: str, limit: float, tenant: str, retry_after_s: float) -> Refusal:
    """The tenant has used up what it may."""
    retry_after_s = math.ceil(retry_after_s * 1000) / 1000  # it travels in whole milliseconds
    message = f"{quota}: the quota is {limit:g}; try again in {retry_after_s:g} s"
    return Refusal(
        Code.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
        message,
        tenant=tenant,
        retry_after_s=retry_after_s,
    )
