"""What a query of Prometheus asks for: names of series, and the labels that it reads of them."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

OUTSIDE = {"instance", "job"}  # labels that the scraper adds
_SERIES = re.compile(r"\b(headstream_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def scrape(admin: str) -> dict[str, set[str]]:
    """Labels of every series of a running server, by its name."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set(OUTSIDE)).update(sample.labels)
    return found


def mistakes(query: str, series: dict[str, set[str]]) -> Iterator[str]:
    """Names of series and labels in a query that a scrape does not have."""
    asked: set[str] = set()
    for name, matchers in _SERIES.findall(query):
        if name not in series:
            yield name
            continue
        asked |= series[name]
        yield from (
            f"{name}{{{label}}}"
            for label in _MATCHER.findall(re.sub(r'"[^"]*"', "", matchers))
            if label not in series[name]
        )
    for group in _GROUPING.findall(query):
        yield from (
            label.strip() for label in group.split(",") if asked and label.strip() not in asked
        )
