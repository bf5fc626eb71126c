"""Labelled texts that Python itself ships; their labels are true by how they are taken."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from language_reference import sections

Array = np.ndarray[Any, np.dtype[Any]]

# Each is about something else than the others.
MODULES = (
    "calendar",
    "logging",
    "mailbox",
    "statistics",
    "tarfile",
    "threading",
    "turtle",
    "urllib.request",
)


def headed_sections(length: int) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """A heading is a query, and the sections that it heads are what should be found.

    Returns:
        Queries and documents by id, the latter the first characters of a section, and the ids of
        the documents that each query is about.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    relevant: dict[str, set[str]] = {}
    ids: dict[str, str] = {}  # of headings
    for pairs in sections().values():
        for heading, body in pairs:
            query = ids.setdefault(heading, f"q{len(ids)}")
            document = f"d{len(documents)}"
            queries[query] = heading
            documents[document] = " ".join(body[:length].split())
            relevant.setdefault(query, set()).add(document)
    return queries, documents, relevant


def docstrings(each: int) -> tuple[list[str], list[int]]:
    """The first paragraphs of docstrings, and which of the modules each stands in: its label."""
    texts: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(MODULES):
        found = sorted(set(_paragraphs(name)))[:each]
        texts += found
        labels += [label] * len(found)
    return texts, labels


def _paragraphs(name: str) -> Iterator[str]:
    """Of 30 to 300 characters."""
    module = importlib.import_module(name)
    own = [each for each in vars(module).values() if getattr(each, "__module__", None) == name]
    members: list[Any] = [
        member for each in own if inspect.isclass(each) for member in vars(each).values()
    ]
    for each in [*own, *filter(callable, members)]:
        text = " ".join((inspect.getdoc(each) or "").split("\n\n")[0].split())
        if 30 <= len(text) <= 300:
            yield text


def word_vectors() -> Callable[[list[str]], Array]:
    """The baseline, TF-IDF of all the texts: [n, V] float32 of length 1, alike by shared words."""
    queries, documents, _ = headed_sections(600)
    words = TfidfVectorizer().fit([*queries.values(), *documents.values(), *docstrings(30)[0]])
    return lambda texts: words.transform(texts).toarray().astype(np.float32)
