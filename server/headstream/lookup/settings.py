"""Settings of `headstream lookup serve`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_PORT = 50061
DEFAULT_CHUNK_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them; the command line checks the values."""

    store: str  # a path, or a URL of object storage
    server: str  # the Headstream server, host:port
    model: str = ""  # empty: its first
    server_ca: Path | None = None  # PEM file; turns TLS to the server on
    server_token: str | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict[str, str])
    cache: Path | None = None  # None: within a store on disk, or in the user's cache
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: a free one
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # PEM file; only clients of these authorities are let in
    insecure: bool = False  # plaintext where other machines can reach it
    tokens: Path | None = None  # TOML file, see headstream.access.tokens; None: nobody is asked
    reload_interval: float = 5.0  # seconds between looks at the TLS files and the tokens
    reflection: bool = True

    @property
    def on_disk(self) -> Path | None:
        """The folder of the store; None for a URL."""
        return None if "://" in self.store else Path(self.store)

    @property
    def cache_file(self) -> Path:
        """Where vectors are kept by their content."""
        if self.cache is not None:
            return self.cache
        if self.on_disk is not None:
            return self.on_disk / "cache.sqlite"
        name = hashlib.sha256(self.store.encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "headstream" / f"lookup-{name}.sqlite"
