"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from headstream.model.errors import CheckpointError


def read_json(path: Path) -> Any:
    """What the file holds.

    Raises:
        CheckpointError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    value: object = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return cast("dict[str, Any]", value)
