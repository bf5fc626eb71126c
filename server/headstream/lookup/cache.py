"""Vectors by the content they were computed from, so that what is kept is not computed again."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstream.lookup.chunks import Range

Vectors = NDArray[np.float32]


def content_key(identity: str, prompt: str, text: str, spans: Sequence[Range]) -> bytes:
    """SHA-256 over what decides the vectors: the model and its ways, the text, and the spans."""
    digest = hashlib.sha256()
    for part in (identity, prompt, text):
        encoded = part.encode()
        digest.update(struct.pack("<q", len(encoded)))
        digest.update(encoded)
    for span in spans:
        digest.update(struct.pack("<2q", *span))
    return digest.digest()


class VectorCache:
    """A SQLite file. Losing it costs time, not data, so writing it does not wait for the disk."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            sqlite3.Error: It is there and cannot be used.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, n INTEGER, data BLOB)"
        )

    def get(self, key: bytes) -> Vectors | None:
        """[n, d], or None where the content is new."""
        row = self._db.execute("SELECT n, data FROM vectors WHERE key = ?", (key,)).fetchone()
        return None if row is None else np.frombuffer(row[1], np.float32).reshape(row[0], -1)

    def put(self, key: bytes, vectors: Vectors) -> None:
        """Keep vectors [n, d]."""
        values = (key, len(vectors), vectors.tobytes())
        self._db.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
