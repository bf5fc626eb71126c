"""The files of the page, as `make explorer` built them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable

from headstream.server.http import Reply

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
}


def page_files() -> Mapping[str, Reply]:
    """By path below the page's own; the page itself is the empty path."""
    replies = dict(_walk(files("headstream.server.explorer") / "static", ""))
    return {"": replies["index.html"], **replies}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Reply]]:
    found: list[tuple[str, Reply]] = []
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found += _walk(entry, f"{path}/")
        else:
            content_type = _TYPES[entry.name.rpartition(".")[2]]
            found.append((path, Reply(HTTPStatus.OK, content_type, entry.read_bytes())))
    return found
