"""``transformers``, imported by what needs it when it needs it: that takes seconds."""

from __future__ import annotations

import importlib
from typing import Any


def transformers(module: str = "") -> Any:
    """The package, or its submodule ``module``, e.g. ``.integrations.gguf``."""
    return importlib.import_module(f"transformers{module}")
