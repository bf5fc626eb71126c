"""The process of a rank that follows; the first is ``engine.loop``."""

from __future__ import annotations

import sys

import msgspec

from headstream.model.allocator import tune_allocator
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.parent import end_with_parent


def main() -> None:
    """``python -m headstream.server.engine.follower CONFIG_JSON ADDRESS PARENT_PID RANK``."""
    config = msgspec.json.decode(sys.argv[1], type=EngineConfig)
    rank = int(sys.argv[4])
    end_with_parent(int(sys.argv[3]))
    tune_allocator()
    from headstream.server.engine.ranks import run_follower  # noqa: PLC0415 - torch, after the above

    try:
        run_follower(config, sys.argv[2], rank)
    except RuntimeError as error:  # the others end too: which of them was first, the front tells
        sys.exit(f"rank {rank} of model {config.name!r} ends: {error}")


if __name__ == "__main__":
    main()
