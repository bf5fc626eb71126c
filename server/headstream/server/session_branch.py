"""A branch of a decoding session, and its moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from headstream.server.engine.branch import Branch
from headstream.v1 import logits_service_pb2 as pb

_UNMADE_MOVES = 64  # of a branch; what more the client has sent waits in its connection


@dataclass(frozen=True, slots=True)
class Move:
    """A checked move of a branch."""

    request: pb.DecodeRequest
    length: int  # tokens the branch holds after it
    num_rows: int = 0
    twin: SessionBranch | None = None  # of a fork


@dataclass(slots=True, eq=False)
class SessionBranch:
    """A branch and the moves it has still to make."""

    number: int
    engine: asyncio.Future[Branch] = field(default_factory=asyncio.Future[Branch])
    # None: no more will come
    moves: asyncio.Queue[Move | None] = field(
        default_factory=lambda: asyncio.Queue[Move | None](_UNMADE_MOVES)
    )
