"""`python -m headstream.server.cli` is `headstream`."""

from __future__ import annotations

from headstream.server.cli import main

if __name__ == "__main__":
    main()
