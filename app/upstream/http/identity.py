"""How the gateway and a backend know each other: the authority that signs its certificate, and our key."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from app.errors import UsageError

HTTPS_PORT = 443


def trusted(backend: str, ca_file: str | None) -> ssl.SSLContext:
    """What a backend's certificate is checked against: the authorities in `ca_file` and no others, or the system's.

    Raises:
        UsageError: the file cannot be used; the message names it and the backend.
    """
    try:
        # With a file of its own the context does not load the system's authorities: the file pins.
        return ssl.create_default_context(cafile=ca_file)
    except FileNotFoundError as exc:
        raise UsageError(f"backend {backend!r}: its ca_file {ca_file} does not exist") from exc
    except ssl.SSLError as exc:
        raise UsageError(f"backend {backend!r}: its ca_file {ca_file} holds no certificate in PEM form") from exc
    except OSError as exc:
        raise UsageError(f"backend {backend!r}: its ca_file {ca_file} cannot be read: {exc.strerror}") from exc


def key_header(backend: str, key: str | None) -> Mapping[str, str]:
    """The header that carries our key, where there is one.

    Raises:
        UsageError: no header can carry it.
    """
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"backend {backend!r}: no header can carry its key; is there a line break at the key's end?")
    return {"authorization": f"Bearer {key}"}


async def certificate_names(url: str, address: str, trust: ssl.SSLContext) -> tuple[str, ...]:
    """The names and addresses that the certificate of the server at `address` is for.

    `trust` is changed: it no longer asks that one of them is the URL's.

    Raises:
        OSError: there is no trusted server.
    """
    trust.check_hostname = False
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(
        address, parts.port or HTTPS_PORT, ssl=trust, server_hostname=parts.hostname
    )
    try:
        certificate: Mapping[str, Any] = writer.get_extra_info("peercert")
        return tuple(name for _, name in certificate.get("subjectAltName", ()))
    finally:
        writer.close()
