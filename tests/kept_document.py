"""A document whose sections are written by tests, each by its own."""

from __future__ import annotations

import re
from pathlib import Path

_HEADING = re.compile(r"(?m)^(?=#{1,2} )")


def put_section(path: Path, section: str) -> None:
    """Replace the section of the same heading (of level 1 or 2), or add it at the end."""
    heading = section.splitlines()[0]
    kept = [each for each in _HEADING.split(path.read_text()) if each] if path.exists() else []
    headings = [each.splitlines()[0] for each in kept]
    if heading in headings:
        kept[headings.index(heading)] = section
    else:
        kept.append(section)
    path.write_text("\n".join(each.strip("\n") + "\n" for each in kept))
