"""The language reference that Python installs for `help()`, by sections."""

from __future__ import annotations

import re
from pydoc_data.topics import topics


def sections() -> dict[str, list[tuple[str, str]]]:
    """(heading, text) of the sections of each topic of the language reference, headings removed."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, text in topics.items():
        parts = re.split(r"^(\S.*)\n[*=~-]{3,}\n", text, flags=re.MULTILINE)
        pairs = [(h, b.strip()) for h, b in zip(parts[1::2], parts[2::2], strict=True)]
        found[name] = [(heading, body) for heading, body in pairs if len(body) > 200]
    return {name: pairs for name, pairs in found.items() if pairs}
