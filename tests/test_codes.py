"""The table of codes in docs/operations.md against the errors that the services can raise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from headstream.access.failure import AccessRefused, ServiceError
from headstream.access.refusal import no_token, quota_exceeded, scope_missing, unknown_token
from headstream.lookup import errors as lookup_errors
from headstream.server import errors as server_errors

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
OF_CALLS = {AccessRefused, lookup_errors.ModelRefused}  # each call's own code and reason


def every_error(above: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield above
    for error in above.__subclasses__():
        yield from every_error(error)


def told() -> set[tuple[str, str]]:
    """Code and reason of each row."""
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_, ]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {(code, reason) for code, reasons in rows for reason in reasons.split(", ")}


def test_every_code_and_reason_is_told_and_no_other() -> None:
    assert {server_errors.EngineFault, lookup_errors.ModelChanged} <= {*every_error()}
    raised = {(each.code.name, each.reason) for each in every_error() if each not in OF_CALLS}
    refusals = (no_token(), unknown_token(), scope_missing("a", "b"), quota_exceeded("a", 1, "", 1))
    assert told() == raised | {(each.code.name, each.reason) for each in refusals}
