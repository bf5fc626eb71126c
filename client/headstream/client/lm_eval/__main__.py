"""`lm_eval`'s command line. Python has imported the package first, so it knows `headstream`."""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
