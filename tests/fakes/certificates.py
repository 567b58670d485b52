"""An authority of one's own, and servers with certificates of it that are right, for somebody else, or expired."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """Signs what it is told to."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def file(self, folder: Path, name: str = "ca.pem") -> str:
        """The authority's own certificate, as an operator has it."""
        path = folder / name
        self._authority.cert_pem.write_to_path(str(path))
        return str(path)

    def server(self, *names: str, ends_in_days: int = 1) -> ssl.SSLContext:
        """A server whose certificate is for these names, by default that of the loopback interface."""
        ends_at = datetime.now(UTC) + timedelta(days=ends_in_days)
        certificate = self._authority.issue_cert(
            *(names or ("127.0.0.1", "localhost")), not_before=ends_at - timedelta(days=30), not_after=ends_at
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context
