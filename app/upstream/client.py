"""Messages to backends, over HTTP. What a connection is stands in `http1.py`, and which one is used in `pool.py`.

Requests are built from nothing: no header of the caller is passed on. There are no redirects, proxies from the
environment, cookies or compressed answers, and no address is asked that is not one of the backend's own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from app.domain.frozen import frozen
from app.domain.models import Backend
from app.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from app.upstream.answers.refusals import RefusedPage, refused_key
from app.upstream.http.addresses import AddressPolicy, check_url, versioned
from app.upstream.http.deadline import Timeouts
from app.upstream.http.exchange import read_body
from app.upstream.http.http1 import HttpExchange
from app.upstream.http.identity import certificate_names, key_header, trusted
from app.upstream.http.lookups import Lookups, Resolve
from app.upstream.http.pool import Connections, Dialling, connections_of, origin, path_of

HOPS = "x-thalamus-hop"
DEADLINE = "x-thalamus-deadline-ms"


@frozen
class Message:
    """What is sent to a backend."""

    path: str
    """Under the backend's `/v1`, such as /chat/completions."""
    body: bytes
    stream: bool
    request_id: str
    hops: int = 0
    traceparent: str | None = None
    """The caller's W3C trace context, to be passed on."""
    deadline_s: float | None = None
    """How long the whole answer may take; the backend is told."""


class UpstreamClient:
    """Sends messages to backends. Open it inside a running event loop, close it at shutdown only."""

    def __init__(
        self,
        backends: Iterable[Backend],
        keys: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        *,
        allow_loopback: bool = True,
        resolve: Resolve | None = None,
    ) -> None:
        """`keys` are the backends' own keys, by backend name.

        Raises:
            UsageError: a backend has a URL, a `ca_file` or a key that cannot be used.
        """
        self._timeouts, resolve = timeouts or Timeouts(), resolve or Lookups()
        self._backends = {backend.name: backend for backend in backends}
        self._dialling: dict[str, Dialling] = {}
        self._connections: dict[str, dict[str, Connections]] = {}
        self._targets: dict[tuple[str, str], tuple[Connections, str]] = {}
        """By backend and URL: the connections to it, and where its API begins."""
        self._headers: dict[str, dict[str, str]] = {}
        self._system: ssl.SSLContext | None = None
        """The system's authorities, which take a while to load."""
        for name, backend in self._backends.items():
            self._headers[name] = {"content-type": "application/json", **key_header(name, (keys or {}).get(name))}
            policy = AddressPolicy(backend.allow_cidr, allow_loopback=allow_loopback)
            for url in backend.urls:
                check_url(url, policy)
            self._dialling[name] = Dialling(policy, self._trust(backend), self._timeouts, resolve)

    async def __aenter__(self) -> UpstreamClient:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        for name, backend in self._backends.items():
            headers, dialling = self._headers[name], self._dialling[name]
            self._connections[name] = connections_of(backend.urls, headers, dialling, backend.max_connections)
            for url in backend.urls:
                target = self._connections[name][origin(url)], path_of(versioned(url))
                # With a slash at its end or without, it is the same replica.
                self._targets[name, url] = self._targets[name, url.rstrip("/")] = target

    async def aclose(self) -> None:
        for of_backend in self._connections.values():
            for connections in of_backend.values():
                await connections.aclose()
        self._connections.clear()
        self._targets.clear()

    def send(self, backend: str, url: str, message: Message) -> Coroutine[Any, Any, HttpExchange]:
        """Send to the replica of a backend at `url`; return when the head of its answer is there.

        Raises:
            UpstreamError: no head came. How long that may take is the caller's to limit, by cancelling.
        """
        connections, base = self._targets[backend, url]
        return connections.exchange("POST", base + message.path, _headers_of(message), message.body)

    async def fetch(self, backend: str, url: str, timeout_s: float, max_bytes: int = 1 << 20) -> bytes:
        """GET a small page of a backend, such as its metrics or its list of models.

        Raises:
            RefusedKey: the backend does not accept our key.
            RefusedPage: it has no such page for us.
            UpstreamError: it cannot be had otherwise, or its status is not 200.
        """
        connections = self._connections[backend].get(origin(url))
        if connections is None:
            raise UpstreamUnreachable(f"{url} is not an address of backend {backend!r}")
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await connections.exchange("GET", path_of(url), "accept: */*\r\n")
                try:
                    if exchange.status in (401, 403):
                        raise refused_key()
                    if exchange.status != 200:
                        raise _refused_page(url, exchange)
                    return await read_body(exchange, max_bytes)
                finally:
                    exchange.close()
        except TimeoutError as exc:
            raise UpstreamTimeout(f"{url} did not answer within {timeout_s:g} s") from exc

    async def certificate_names(self, backend: str, url: str, timeout_s: float) -> tuple[str, ...]:
        """What the certificate of a replica is for, if it is sound but not for the replica's own name; else nothing."""
        ca_file = self._backends[backend].ca_file
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._dialling[backend].addresses(urlsplit(url).hostname or "")
                return await certificate_names(url, addresses[0], trusted(backend, ca_file))
        except OSError:  # a TimeoutError is one
            return ()

    def _trust(self, backend: Backend) -> ssl.SSLContext | None:
        if backend.ca_file:
            return trusted(backend.name, backend.ca_file)
        if self._system is None and any(urlsplit(url).scheme == "https" for url in backend.urls):
            self._system = trusted(backend.name, None)
        return self._system


def _headers_of(message: Message) -> str:
    if not f"{message.request_id}{message.traceparent}".isprintable():
        raise ValueError("a line break in a header would begin another one")
    accept = "text/event-stream" if message.stream else "application/json"
    lines = f"accept: {accept}\r\nx-request-id: {message.request_id}\r\n{HOPS}: {message.hops + 1}\r\n"
    if message.traceparent is not None:
        lines += f"traceparent: {message.traceparent}\r\n"
    if message.deadline_s is not None:
        lines += f"{DEADLINE}: {max(0, int(message.deadline_s * 1000))}\r\n"
    return lines


def _refused_page(url: str, exchange: HttpExchange) -> UpstreamBroken:
    answered = f"{url} answered with status {exchange.status}"
    if exchange.location:
        return RefusedPage(f"{answered}: it redirects to {exchange.location}")
    if exchange.status == 404:
        return RefusedPage(f"{answered}; correct the URL")
    return UpstreamBroken(answered)
