"""Constraints of requests as grammars of llguidance, checked before any work."""

from __future__ import annotations

import llguidance

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
"""What a grammar may cost: the library's defaults, some 10 ms of lexer and parser a token."""

_SHOWN = 300  # characters of the library's message


def problem(grammar: str) -> str:
    """What is wrong with a grammar, in words for who wrote it; empty: nothing.

    Takes up to some 10 ms, so services call it in a thread.
    """
    message = llguidance.LLMatcher.validate_grammar(grammar, None, limits=LIMITS)
    return message[:_SHOWN].strip()
