"""The process of a rank that follows; the first is ``engine.loop``."""

from __future__ import annotations

import logging
import sys

import msgspec

from headstream.model.allocator import tune_allocator
from headstream.server.engine.config import EngineConfig
from headstream.server.engine.parent import end_with_parent

_log = logging.getLogger(__name__)


def main() -> None:
    """``python -m headstream.server.engine.follower CONFIG_JSON ADDRESS PARENT_PID RANK``."""
    config = msgspec.json.decode(sys.argv[1], type=EngineConfig)
    rank = int(sys.argv[4])
    end_with_parent(int(sys.argv[3]))
    tune_allocator()
    from headstream.model.parallel.group import leave  # noqa: PLC0415 - torch, after the above
    from headstream.server.engine.ranks import run_follower  # noqa: PLC0415 - as above

    try:
        run_follower(config, sys.argv[2], rank)
    except Exception:
        _log.exception("rank %d of model %r ends", rank, config.name)
        leave()


if __name__ == "__main__":
    main()
