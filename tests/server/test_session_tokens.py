"""Tokens of sessions: those that branches share count once, whatever was done before."""

from __future__ import annotations

import itertools
import random

import pytest

from headstream.server.errors import SessionLimit
from headstream.server.session_tokens import AllSessions, SessionTokens


def test_random_moves_count_what_a_set_of_tokens_counts() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        everyone = AllSessions(max_tokens=10**6)
        session, fresh = SessionTokens(everyone, max_tokens=10**6), itertools.count()
        branches: dict[int, list[int]] = {}  # tokens, no two of which were appended together
        for number in range(300):
            kind = rng.choice(["append", "append", "rollback", "fork", "close"])
            branch = rng.choice(list(branches)) if branches else number
            count = rng.randint(1, 9)
            if kind == "append" or not branches:
                session.append(branch, count)
                branches.setdefault(branch, []).extend(itertools.islice(fresh, count))
            elif kind == "rollback":
                length = rng.randint(1, len(branches[branch]))
                session.rollback(branch, length)
                del branches[branch][length:]
            elif kind == "fork":
                session.fork(branch, number)
                branches[number] = branches[branch][:]
            elif rng.random() < 0.5:
                session.close(branch)
                del branches[branch]
            assert everyone.num_tokens == len(set().union(*branches.values()))
            for held, tokens in branches.items():
                assert session.length(held) == len(tokens)
        session.close_all()
        assert everyone.num_tokens == 0


def test_a_limit_is_named_and_what_breaks_it_does_not_count() -> None:
    everyone = AllSessions(max_tokens=30)
    one, other = SessionTokens(everyone, max_tokens=20), SessionTokens(everyone, max_tokens=20)
    one.append(0, 20)
    one.fork(0, 1)
    one.rollback(1, 19)
    with pytest.raises(SessionLimit, match="the session would hold 21 tokens; max_session_tok"):
        one.append(1, 1)
    other.append(0, 10)
    with pytest.raises(SessionLimit, match="all sessions would hold 31 tokens; max_all_session"):
        other.append(0, 1)
    assert (one.length(1), other.length(0), everyone.num_tokens) == (19, 10, 30)
    one.close(0)
    other.append(0, 1)
    assert everyone.num_tokens == 30
