"""How many tokens' keys and values decoding sessions hold, against their limits.

Counted from the moves alone: whether the engine has the keys and values at hand at this moment, or
would compute them again, makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headstream.server.errors import SessionLimit


class AllSessions:
    """The tokens of all sessions of one model."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.num_tokens = 0


@dataclass(slots=True)
class _Run:
    """Tokens in a row that were appended together. A branch keeps all of them or the first few."""

    kept: dict[int, int] = field(default_factory=dict[int, int])  # branch -> tokens

    @property
    def num_tokens(self) -> int:
        """Tokens that some branch keeps."""
        return max(self.kept.values(), default=0)


class SessionTokens:
    """The tokens of one session's branches; those that branches share count once."""

    def __init__(self, everyone: AllSessions, max_tokens: int) -> None:
        self._everyone = everyone
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._runs: dict[int, list[_Run]] = {}  # of each branch, in order

    def length(self, branch: int) -> int:
        """Tokens of a branch."""
        return sum(run.kept[branch] for run in self._runs.get(branch, ()))

    def append(self, branch: int, count: int) -> None:
        """Tokens more for a branch, maybe a new one.

        Raises:
            SessionLimit: This session, or all together, would hold too many.
        """
        self._check("the session", "max_session_tokens", self._num_tokens + count, self._max_tokens)
        total, limit = self._everyone.num_tokens + count, self._everyone.max_tokens
        self._check("all sessions", "max_all_session_tokens", total, limit)
        runs = self._runs.setdefault(branch, [])
        if not runs or len(runs[-1].kept) > 1:
            runs.append(_Run({branch: 0}))
        runs[-1].kept[branch] += count
        self._count(count)

    def fork(self, branch: int, twin: int) -> None:
        """A new branch with the tokens of another."""
        self._runs[twin] = self._runs[branch][:]
        for run in self._runs[twin]:
            run.kept[twin] = run.kept[branch]

    def rollback(self, branch: int, length: int) -> None:
        """Keep the first ``length`` tokens of a branch."""
        runs = self._runs[branch]
        excess = self.length(branch) - length
        while excess > 0:
            run = runs[-1]
            before = run.num_tokens
            dropped = min(excess, run.kept[branch])
            run.kept[branch] -= dropped
            if not run.kept[branch]:
                del run.kept[branch]
                runs.pop()
            self._count(run.num_tokens - before)
            excess -= dropped

    def close(self, branch: int) -> None:
        """Forget a branch."""
        self.rollback(branch, 0)
        del self._runs[branch]

    def close_all(self) -> None:
        """Forget all branches."""
        for branch in list(self._runs):
            self.close(branch)

    def _count(self, more: int) -> None:
        self._num_tokens += more
        self._everyone.num_tokens += more

    def _check(self, who: str, name: str, num_tokens: int, limit: int) -> None:
        if num_tokens > limit:
            raise SessionLimit(f"{who} would hold {num_tokens} tokens; {name} is {limit}")
