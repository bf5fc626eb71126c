"""The certificate of a service, its key, and the authorities of its clients."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc

from headstream.access.files import FileError, WatchedFiles


class Certificates:
    """PEM files for TLS. New ones are for new connections; open ones stay as they are."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        """``client_ca``: whose clients are let in; None: no certificate is asked of a client.

        Raises:
            FileError: A file cannot be read, or they do not fit each other.
        """
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        paths = (cert, key) if client_ca is None else (cert, key, client_ca)
        self.files = WatchedFiles("tls", paths, self._read)

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; before each handshake gRPC asks for news."""
        self._is_new = False
        news: Any = self._news  # typed as if there always were some
        return grpc.dynamic_ssl_server_credentials(
            self._current, news, require_client_authentication=self._client_ca is not None
        )

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        if not self._is_new:
            return None
        self._is_new = False
        return self._current

    def _read(self) -> None:
        cert, key, ca = self._cert, self._key, self._client_ca
        try:
            pair = (key.read_bytes(), cert.read_bytes())
            authorities = None if ca is None else ca.read_bytes()
        except OSError as error:
            raise FileError(f"tls: {error.filename}: {error.strerror}") from None
        # gRPC says no more of bad files than that there is something wrong, and does so later.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(cert, key, password=lambda: "")  # otherwise it asks a terminal
        except (OSError, ValueError) as error:
            raise FileError(f"tls: {cert} and {key} do not fit: {_why(error)}") from None
        if ca is not None:
            try:
                context.load_verify_locations(ca)
            except (OSError, ValueError) as error:
                raise FileError(f"tls: {ca} is no list of authorities: {_why(error)}") from None
        self._current = grpc.ssl_server_certificate_configuration([pair], authorities)
        self._is_new = True


def _why(error: Exception) -> str:
    """The library's words without its numbers."""
    reason: object = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()
