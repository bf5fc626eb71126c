"""The lock holds what constraints.txt says, each with its hashes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()


def pins(text: str) -> dict[str, str]:
    """Name -> version of every line that begins with a pin."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def sections() -> dict[str, dict[str, str]]:
    """The pins of constraints.txt below each heading."""
    text = (ROOT / "constraints.txt").read_text()
    parts = re.split(r"^# ([a-z, ]+)\n", text, flags=re.MULTILINE)
    return {name: pins(part) for name, part in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_pin_of_what_is_served_is_in_it() -> None:
    by_name, locked = sections(), pins(LOCK)
    wanted = by_name["client"] | by_name["server"] | by_name["lookup"] | by_name["otel"]
    assert len(wanted) > 20
    assert {name: locked.get(name) for name in wanted} == wanted


def test_every_package_has_its_hashes() -> None:
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(pins(LOCK)) > 50, "some have several, for other versions of Python"
    without = [each.split()[0] for each in entries if "--hash=sha256:" not in each]
    assert without == []


def test_torch_is_left_to_the_user_and_nothing_names_a_place() -> None:
    assert "torch" not in pins(LOCK)
    assert not re.search(r"https?://|file:|--find-links|index-url", LOCK)
