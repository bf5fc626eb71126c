"""Small pieces that the views are made of: tokens, bars, numbers."""

from __future__ import annotations

import json

from rich.text import Text

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def visible(token: str, width: int = 16) -> str:
    """A token in quotes, with its spaces and line ends to be seen, in at most `width` columns."""
    quoted = json.dumps(token, ensure_ascii=False)
    return quoted if len(quoted) <= width else f"{quoted[: width - 2]}…{quoted[-1]}"


def bar(share: float, width: int, style: str = "cyan") -> Text:
    """A bar filled to `share` of `width` columns, in steps of an eighth of a column."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return Text(filled.ljust(width), style=style, end="")


def percent(share: float) -> str:
    """A probability, such as `4.2%`; `<0.1%` where it would round to nothing."""
    return f"{share:.1%}" if share >= 0.0005 or share == 0 else "<0.1%"


def count(number: int) -> str:
    """A large number in few columns: `268M`, `32K`, `1.5B`."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (10_000, "K")):
        if number >= size:
            scaled = number / (1000 if unit == "K" else size)
            return (
                f"{scaled:.1f}".removesuffix(".0") + unit if scaled < 10 else f"{scaled:.0f}{unit}"
            )
    return str(number)


def signed(number: float) -> str:
    """A cosine with four decimals and a column for its sign; never `-0.0000`."""
    return f"{round(number, 4) + 0.0:7.4f}"
