"""Conditions on documents, as the store is asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SEPARATOR = "="
"""Between key and value of a tag; no key holds it."""


@dataclass(frozen=True, slots=True)
class DocumentFilter:
    """What a document must have. Empty: any document."""

    any_of: Sequence[tuple[str, Sequence[str]]] = ()  # for each key, the values allowed
    document_ids: Sequence[str] = field(default=())

    def where(self) -> str | None:
        """The condition in the store's language; None where there is none."""
        parts = [
            f"array_has_any(tags, [{quoted(tag(key, value) for value in values)}])"
            for key, values in self.any_of
        ]
        if self.document_ids:
            parts.append(is_one_of("document_id", self.document_ids))
        return " AND ".join(parts) or None


def tag(key: str, value: str) -> str:
    """One entry of the metadata as a word."""
    return f"{key}{SEPARATOR}{value}"


def tags(metadata: Mapping[str, str]) -> list[str]:
    """The metadata as words, ascending."""
    return sorted(tag(key, value) for key, value in metadata.items())


def metadata(words: Sequence[str]) -> dict[str, str]:
    """From words to the metadata."""
    pairs = (word.partition(SEPARATOR) for word in words)
    return {key: value for key, _, value in pairs}


def is_one_of(column: str, values: Sequence[str]) -> str:
    """The condition that a column holds one of some texts."""
    return f"{column} IN ({quoted(values)})"


def quoted(values: Iterable[str]) -> str:
    """Texts as literals of SQL. A doubled quote is the only escape that they know."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
