"""The file of tokens: who has them, what they are for, how much they may ask for.

    [tokens.ingest]
    sha256 = "9f86d0..."        # or a list of several: the old one and the new one side by side
    scopes = ["embeddings", "tokenizer"]
    requests_per_second = 20    # these three may be left out
    requests_at_once = 8
    tokens_per_second = 50000
    max_priority = "batch"      # what asks for more is served as this; left out: anything

The file holds no token, only digests. A single SHA-256 is enough: a token is 256 random bits, so
there is nothing to guess that a slow hash would protect; and it is computed for every call.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from headstream.access.files import FileError

SCOPES = ("logits", "embeddings", "internals", "tokenizer", "model", "lookup", "inference")
"""One for each service of the contract, and one for the Open Inference Protocol."""

PRIORITIES = ("batch", "normal", "high")
"""Those of the contract, the more urgent the later."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = "hs_"  # for those who search files and logs for secrets
_KEYS = {"sha256", "scopes", "max_priority"}


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may ask for; None: anything."""

    requests_per_second: float | None = None
    requests_at_once: int | None = None
    tokens_per_second: float | None = None  # read and generated


@dataclass(frozen=True, slots=True)
class Token:
    """One entry of the file."""

    name: str  # of the tenant
    digests: tuple[bytes, ...]  # SHA-256 of each token that it may show
    scopes: frozenset[str]
    quota: Quota
    max_priority: str | None = None  # one of PRIORITIES; None: any


def new_token() -> str:
    """A token nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """What the file holds of a token."""
    return hashlib.sha256(token.encode()).digest()


def find(tokens: Iterable[Token], token: str) -> Token | None:
    """Whose token it is. The time taken does not tell how near a wrong one comes."""
    given, found = digest(token), None
    for each in tokens:
        for known in each.digests:
            if hmac.compare_digest(known, given):
                found = each
    return found


def to_entry(token: Token) -> str:
    """The lines of the file for it."""
    digests = [each.hex() for each in token.digests]
    lines = [
        f"[tokens.{token.name}]",
        f"sha256 = {_toml(digests if len(digests) > 1 else digests[0])}",
        f"scopes = {_toml([scope for scope in SCOPES if scope in token.scopes])}",
    ]
    for field in fields(Quota):
        value = getattr(token.quota, field.name)
        if value is not None:
            lines.append(f"{field.name} = {value}")
    if token.max_priority is not None:
        lines.append(f"max_priority = {_toml(token.max_priority)}")
    return "\n".join(lines) + "\n"


def _toml(value: str | list[str]) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(_toml(each) for each in value)}]"


def read_tokens(path: Path) -> tuple[Token, ...]:
    """All entries of the file.

    Raises:
        FileError: It cannot be read, or an entry is wrong; the message names it.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FileError(f"tokens: {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # all that bad UTF-8 and bad TOML raise
        raise FileError(f"tokens: {path}: {error}") from None
    entries: object = document.get("tokens")
    if not isinstance(entries, dict) or not entries or len(document) > 1:
        raise FileError(f"tokens: {path}: must hold tables [tokens.NAME], and nothing else")
    try:
        tokens = tuple(
            parse_token(name, entry) for name, entry in cast(dict[str, object], entries).items()
        )
    except ValueError as error:
        raise FileError(f"tokens: {path}: {error}") from None
    digests = [each for token in tokens for each in token.digests]
    if len(set(digests)) < len(digests):
        raise FileError(f"tokens: {path}: a sha256 is there twice")
    return tokens


def parse_token(name: str, entry: object) -> Token:
    """An entry, checked.

    Raises:
        ValueError: It is wrong; the message names the key.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:70]!r} is no name: 1 to 64 letters, digits, _ or -")
    if not isinstance(entry, dict):
        raise ValueError(f"{name}: must be a table")  # noqa: TRY004 - of a file, not of an argument
    values = cast(dict[str, Any], entry)
    if unknown := values.keys() - _KEYS - {field.name for field in fields(Quota)}:
        raise ValueError(f"{name}: unknown keys: {', '.join(sorted(unknown))}")
    digests = _strings(name, values, "sha256")
    if not all(_DIGEST.fullmatch(each) for each in digests):
        raise ValueError(f"{name}.sha256: must be 64 hex digits, in lower case")
    scopes = _strings(name, values, "scopes")
    if strange := set(scopes) - set(SCOPES):
        known = ", ".join(SCOPES)
        raise ValueError(f"{name}.scopes: {', '.join(sorted(strange))}: not among {known}")
    most: str | None = values.get("max_priority")
    if most is not None and most not in PRIORITIES:
        raise ValueError(f"{name}.max_priority: must be one of {', '.join(PRIORITIES)}")
    return Token(
        name,
        tuple(map(bytes.fromhex, digests)),
        frozenset(scopes),
        _quota(name, values),
        most,
    )


def _strings(name: str, values: Mapping[str, Any], key: str) -> list[str]:
    """A string, or several; none is a mistake."""
    given: object = values.get(key)
    listed = cast(list[object], given) if isinstance(given, list) else [given]
    if not listed or not all(isinstance(each, str) for each in listed):
        raise ValueError(f"{name}.{key}: must be a string or a list of strings")
    return cast(list[str], listed)


def _quota(name: str, values: Mapping[str, Any]) -> Quota:
    given = {field.name: values.get(field.name) for field in fields(Quota)}
    for key, value in given.items():
        whole = key == "requests_at_once"
        kinds = int if whole else (int, float)
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if value is not None and not (good and 0 < value < math.inf):
            raise ValueError(f"{name}.{key}: must be a {'whole ' if whole else ''}number above 0")
    return Quota(**given)
