"""A headless Chromium that looks at the explorer's page, and what stands on it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

Scheme = Literal["light", "dark"]

ENCODER = "all-minilm-l6-v2"
"""The second model of the server that the page is tested on."""


def chromium_path() -> str:
    """The machine's own browser; without one the test is skipped."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("needs Chromium (Debian: apt-get install chromium)")


@contextmanager
def browser() -> Generator[Any]:
    """Headless Chromium, driven by Playwright."""
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    # As root its sandbox does not start; the pages are our own.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@dataclass
class Explorer:
    """An open page."""

    page: Any
    complaints: list[str] = field(default_factory=list[str])
    """What the browser's console got: errors of the page, and what its policy forbade."""

    def read(self, text: str) -> None:
        """Type a text, with the keyboard alone, and wait until it is scored."""
        box = self.page.get_by_label("Text to read")
        box.focus()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Enter")

    def chips(self) -> list[list[str]]:
        """Each token's text, id and value, as they are shown."""
        spans = self.page.locator("[role=option]")
        return [chip.split("\n") for chip in spans.all_inner_texts()]

    def fact(self, name: str) -> str:
        """One of the facts on the chosen token."""
        text: str = self.page.locator(f"[data-fact={name}]").inner_text()
        return text

    def bars(self, panel: str) -> list[tuple[str, int, float]]:
        """Text, note and share of each bar of a view."""
        found = []
        for bar in self.page.locator(f"#{panel} .bars li").all():
            text, note, share = (
                bar.locator(f".bar-{part}").inner_text() for part in ("text", "note", "value")
            )
            found.append((text, int(note.removeprefix("at ")), number(share)))
        return found


@contextmanager
def opened(chromium: Any, admin: str, scheme: Scheme = "light") -> Generator[Explorer]:
    """The explorer of a server, in a window of its own."""
    context = chromium.new_context(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": 1240, "height": 900}
    )
    page = context.new_page()
    page.set_default_timeout(100_000)
    explorer = Explorer(page)
    page.on("console", lambda said: explorer.complaints.append(said.text))
    page.on("pageerror", lambda error: explorer.complaints.append(str(error)))
    page.goto(f"http://{admin}/explorer/")
    yield explorer
    context.close()


def number(text: str) -> float:
    """A number as the page writes it; what it calls less than its last digit is 0."""
    if text.startswith("<"):
        return 0.0
    return float(text.replace("\u2212", "-").replace(",", "").removesuffix("%"))


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours, as the browser tells them."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    digits = [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]
    # `rgb(36, 80, 196)`, or of a mixed colour `color(srgb 0.14 0.31 0.77)`
    channels = digits if colour.startswith("color(") else [part / 255 for part in digits]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
