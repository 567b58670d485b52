"""The exchange with a backend over HTTP. The only file that knows aiohttp.

Each backend has a pool of its own, bounded, so that one that hangs cannot take connections from another. Requests are
built from nothing: no header of the caller is passed on. Redirects, proxies from the environment, cookies and
compressed answers are off. Names are resolved at each new connection, and only allowed addresses are connected to.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from app.domain.models import Backend
from app.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.upstream import pacing
from app.upstream.addresses import AddressPolicy, check_url, versioned
from app.upstream.deadline import Timeouts
from app.upstream.exchange import read_body
from app.upstream.faults import NoAnswer
from app.upstream.identity import certificate_names, key_header, trusted
from app.upstream.refusals import refused_key

# uvicorn, and so vLLM, closes a connection that idles for 5 s; we must be the first, or a request meets the closing.
KEEP_ALIVE_S = 4.0
# A half-open backend is noticed after 15 s + 3 probes; without this it would be the idle limit.
PROBE_TCP_AFTER_S, PROBE_TCP_EVERY_S, PROBES = 15, 5, 3
HOPS = "x-thalamus-hop"


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent to a backend."""

    path: str
    """Under the backend's `/v1`, such as /chat/completions."""
    body: bytes
    stream: bool
    request_id: str
    hops: int = 0


class UpstreamClient:
    """Sends messages to backends. Open it inside a running event loop, close it at shutdown only."""

    def __init__(
        self,
        backends: Iterable[Backend],
        keys: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        *,
        allow_loopback: bool = True,
    ) -> None:
        """`keys` are the backends' own keys, by backend name.

        Raises:
            UsageError: a backend has a URL, a `ca_file` or a key that cannot be used.
        """
        self._timeouts = timeouts or Timeouts()
        self._backends = tuple(backends)
        self._keys = {b.name: key_header(b.name, (keys or {}).get(b.name)) for b in self._backends}
        self._trust = {b.name: trusted(b.name, b.ca_file) for b in self._backends}
        self._policies = {b.name: AddressPolicy(b.allow_cidr, allow_loopback=allow_loopback) for b in self._backends}
        self._pools: dict[str, _Pool] = {}
        for backend in self._backends:
            for url in backend.urls:
                check_url(url, self._policies[backend.name])

    async def __aenter__(self) -> UpstreamClient:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        for backend in self._backends:
            headers = {"content-type": "application/json", **self._keys[backend.name]}
            connector = _connector(_AllowedResolver(self._policies[backend.name]), self._trust[backend.name])
            self._pools[backend.name] = _Pool(backend, headers, connector, self._timeouts)

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    async def send(self, backend: str, url: str, message: Message) -> HttpExchange:
        """Send to the replica of a backend at `url`; return when the head of its answer is there.

        Raises:
            UpstreamError: no head came. How long that may take is the caller's to limit, by cancelling.
        """
        pool = self._pools[backend]
        headers = {
            **pool.headers,
            "accept": "text/event-stream" if message.stream else "application/json",
            "x-request-id": message.request_id,
            HOPS: str(message.hops + 1),
        }
        return await pool.exchange("POST", versioned(url) + message.path, headers, message.body)

    async def fetch(self, backend: str, url: str, timeout_s: float, max_bytes: int = 1 << 20) -> bytes:
        """GET a small page of a backend, such as its metrics or its list of models.

        Raises:
            RefusedKey: the backend does not accept our key.
            UpstreamError: it cannot be had otherwise, or its status is not 200.
        """
        pool = self._pools[backend]
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await pool.exchange("GET", url, {**pool.headers, "accept": "*/*"}, None)
                try:
                    if exchange.status in (401, 403):
                        raise refused_key()
                    if exchange.status != 200:
                        raise UpstreamBroken(_refused_page(url, exchange))
                    return await read_body(exchange, max_bytes)
                finally:
                    exchange.close()
        except TimeoutError as exc:
            raise UpstreamTimeout(f"{url} did not answer within {timeout_s:g} s") from exc

    async def certificate_names(self, backend: str, url: str, timeout_s: float) -> tuple[str, ...]:
        """What the certificate of a replica is for, if it is sound but not for the replica's own name; else nothing."""
        ca_file = next(one.ca_file for one in self._backends if one.name == backend)
        host = urlsplit(url).hostname or ""
        try:
            async with asyncio.timeout(timeout_s):
                found = await _AllowedResolver(self._policies[backend]).resolve(host)
                return await certificate_names(url, found[0]["host"], trusted(backend, ca_file))
        except OSError:  # a TimeoutError is one
            return ()


@dataclass(slots=True)
class HttpExchange:
    """See `Exchange`."""

    response: aiohttp.ClientResponse
    pool: _Pool
    open: bool = field(default=True)

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def content_type(self) -> str:
        return self.response.headers.get("content-type", "")

    @property
    def location(self) -> str:
        return self.response.headers.get("location", "")

    @property
    def retry_after_s(self) -> float | None:
        return pacing.retry_after_s(self.response.headers, time.time())

    @property
    def used_up_s(self) -> float | None:
        return pacing.used_up_s(self.response.headers, time.time())

    async def read(self) -> bytes:
        try:
            return await self.response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamDisconnected("the backend's answer was cut") from exc

    def fail(self, error: UpstreamError) -> None:
        self.response.content.set_exception(error)

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        if self.response.content.at_eof():
            self.response.release()
        else:
            self.response.close()
        self.pool.give_back()


class _Pool:
    """Connections to one backend, at most so many."""

    def __init__(
        self, backend: Backend, headers: Mapping[str, str], connector: aiohttp.TCPConnector, timeouts: Timeouts
    ) -> None:
        self.headers = headers
        self._wait_s = timeouts.pool_wait_s
        self._free = asyncio.Semaphore(backend.max_connections)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=1 << 16,
            skip_auto_headers=("user-agent", "accept-encoding"),
        )

    async def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> HttpExchange:
        await self._take()
        try:
            response = await self._session.request(method, url, headers=headers, data=body, allow_redirects=False)
        except BaseException as exc:
            self.give_back()
            if isinstance(exc, aiohttp.ClientError | OSError):
                raise _translated(exc) from exc
            raise
        return HttpExchange(response, self)

    async def aclose(self) -> None:
        await self._session.close()

    def give_back(self) -> None:
        self._free.release()

    async def _take(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError as exc:
            # It may be tried again at once: the backend itself did not refuse anything.
            raise UpstreamBusy("all connections to the backend are in use", retry_after_s=0) from exc


def _connector(resolver: AbstractResolver, trust: ssl.SSLContext) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(
        limit=0,  # the pool's semaphore bounds it, and waits no longer than we say
        resolver=resolver,
        keepalive_timeout=KEEP_ALIVE_S,
        socket_factory=_socket,
        ssl=trust,
    )


class _AllowedResolver(AbstractResolver):
    """Resolves names with the system's resolver, and returns allowed addresses only."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        allowed = [result for result in found if self._policy.allows(result["host"])]
        if not allowed:
            raise OSError(f"{host} has no address that the backend's allow_cidr allows")
        return allowed

    async def close(self) -> None:
        await self._system.close()


def _socket(
    address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]],
) -> socket.socket:
    family, kind, protocol = address[:3]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_TCP_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_TCP_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    return sock


def _translated(exc: Exception) -> UpstreamError:
    if isinstance(exc, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError | aiohttp.InvalidURL):
        return UpstreamUnreachable("the backend cannot be reached")
    if isinstance(exc, TimeoutError):
        return UpstreamTimeout("the backend did not answer in time")
    return NoAnswer("the backend closed the connection before it answered")


def _refused_page(url: str, exchange: HttpExchange) -> str:
    answered = f"{url} answered with status {exchange.status}"
    if exchange.location:
        return f"{answered}: it redirects to {exchange.location}"
    return f"{answered}; correct the URL" if exchange.status == 404 else answered
