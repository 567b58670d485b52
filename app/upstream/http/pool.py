"""The connections to the replicas of one backend, and the places for exchanges on them.

How it works: an exchange needs a place first. A backend has so many, and a replica not all of them: half of what would
be each other replica's share is kept for that one, so a replica that hangs cannot take them all. Who finds none waits
in line, for a moment. With its place an exchange gets the connection that was used last, or a new one.

Names are resolved at each new connection, and only allowed addresses are connected to, one after another. An idle
connection is closed before its worker would do so; one that the worker has closed is not used. Where it is closed just
as a request is sent, and not one byte came, the request goes out once more on a new connection, in the same place.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from app.errors import UpstreamBusy, UpstreamUnreachable
from app.upstream.http.addresses import AddressPolicy, is_address
from app.upstream.http.deadline import Timeouts
from app.upstream.http.faults import ClosedIdle
from app.upstream.http.http1 import READ_BYTES, Connection, HttpExchange
from app.upstream.http.identity import HTTPS_PORT
from app.upstream.http.lookups import Lookups, Resolve

# uvicorn, and so vLLM, closes a connection that idles for 5 s; we must be the first, or a request meets the closing.
KEEP_ALIVE_S = 4.0
# A half-open backend is noticed after 15 s + 3 probes; without this it would be the idle limit.
PROBE_TCP_AFTER_S, PROBE_TCP_EVERY_S, PROBES = 15, 5, 3
HTTP_PORT = 80
# A connection that is cut is gone in the loop's next round; shutting down must not hang on one.
CLOSED_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Dialling:
    """How connections to a backend are made."""

    policy: AddressPolicy
    trust: ssl.SSLContext | None
    """What certificates are checked against; None where nothing speaks TLS."""
    timeouts: Timeouts
    resolve: Resolve = field(default_factory=Lookups)

    async def addresses(self, host: str) -> Sequence[str]:
        """The addresses of a host that may be connected to; at least one.

        Raises:
            OSError: there is none.
        """
        found = [host] if is_address(host) else await self.resolve(host)
        allowed = [address for address in found if self.policy.allows(address)]
        if not allowed:
            raise OSError(f"{host} has no address that the backend's allow_cidr allows")
        return allowed


class Places:
    """Places for exchanges with one backend. First come, first served, except where a replica has its share."""

    def __init__(self, limit: int, per_replica: int, wait_s: float) -> None:
        self._limit, self._per_replica, self._wait_s = limit, per_replica, wait_s
        self._lines: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}
        self._taken: defaultdict[str, int] = defaultdict(int)
        self._arrivals = 0
        self.taken = 0

    def take_at_once(self, replica: str) -> bool:
        """Take a place for an exchange with this replica, if there is one; `give_back` it once."""
        if not self._has_room(replica):
            return False
        self.taken += 1
        self._taken[replica] += 1
        return True

    async def take(self, replica: str) -> None:
        """The same, waiting for a place.

        Raises:
            UpstreamBusy: none became free in time.
        """
        if self.take_at_once(replica):
            return
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()
        self._arrivals += 1
        entry = (self._arrivals, mine)
        line = self._lines.setdefault(replica, deque())
        line.append(entry)
        timer = loop.call_later(self._wait_s, _refuse, mine)
        try:
            await mine
        except BaseException:
            # A place that was given to us while we were cancelled is nobody's now.
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self.give_back(replica)
            elif entry in line:
                line.remove(entry)
            raise
        finally:
            timer.cancel()

    def give_back(self, replica: str) -> None:
        self.taken -= 1
        self._taken[replica] -= 1
        while (entitled := self._next()) is not None:
            self.take_at_once(entitled)
            self._lines[entitled].popleft()[1].set_result(None)

    def _has_room(self, replica: str) -> bool:
        return self.taken < self._limit and self._taken[replica] < self._per_replica

    def _next(self) -> str | None:
        """The replica whose line may move: of those with room, the one where somebody has waited longest."""
        first: tuple[int, str] | None = None
        for replica, line in self._lines.items():
            while line and line[0][1].done():
                line.popleft()
            if line and self._has_room(replica) and (first is None or line[0][0] < first[0]):
                first = line[0][0], replica
        return None if first is None else first[1]


def share_of_one(limit: int, replicas: int) -> int:
    """How many of a backend's places one replica may take: half of the share of each other one is kept for it."""
    kept = -(-limit // (2 * replicas))
    return max(1, limit - (replicas - 1) * kept)


class Connections:
    """Those to one server. Its exchanges give their connection and their place back when they are closed."""

    def __init__(self, url: str, headers: Mapping[str, str], dialling: Dialling, places: Places) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "https"
        self._port = parts.port or (HTTPS_PORT if self._tls else HTTP_PORT)
        self._key = origin(url)
        self._dialling, self._places = dialling, places
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in {"host": _host_header(url), **headers}.items())
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._all_lost = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(self, method: str, path: str, headers: str, body: bytes | None = None) -> HttpExchange:
        """Send a request; `headers` are whole lines, and `path` is quoted.

        Raises:
            UpstreamError: no head of an answer came.
        """
        length = "" if body is None else f"content-length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{self._fixed}{headers}{length}\r\n".encode("latin-1")
        if not self._places.take_at_once(self._key):
            await self._places.take(self._key)
        if (warm := self._warm()) is not None:
            with suppress(ClosedIdle):
                return await warm.ask(head, body or b"")
        try:
            connection = await self._new()
        except BaseException:
            self._places.give_back(self._key)
            raise
        return await connection.ask(head, body or b"")

    def take_back(self, connection: Connection, *, reusable: bool) -> None:
        """See `Home`."""
        if reusable:
            connection.idle_since = connection.loop.time()
            self._idle.append(connection)
            if self._sweep is None:
                self._sweep = connection.loop.call_later(KEEP_ALIVE_S, self._close_idle)
        self._places.give_back(self._key)

    def lost(self, connection: Connection) -> None:
        """See `Home`."""
        self._open.discard(connection)
        if not self._open:
            self._all_lost.set()
        if connection in self._idle:
            self._idle.remove(connection)

    async def aclose(self) -> None:
        """Cut all connections, and wait until they are gone."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._all_lost.clear()
        for connection in tuple(self._open):
            connection.abort()
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSED_WITHIN_S):
                    await self._all_lost.wait()

    def _warm(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.loop.time() - connection.idle_since < KEEP_ALIVE_S:
                return connection
            connection.abort()
        return None

    async def _new(self) -> Connection:
        within_s = self._dialling.timeouts.connect_s
        try:
            async with asyncio.timeout(within_s):
                addresses = await self._dialling.addresses(self._host)
            return await self._first_that_answers(addresses, within_s)
        except OSError as exc:  # a TimeoutError is one
            raise UpstreamUnreachable("the backend cannot be reached") from exc

    async def _first_that_answers(self, addresses: Sequence[str], within_s: float) -> Connection:
        for address in addresses[:-1]:
            try:
                return await self._connect(address, within_s)
            except OSError:
                continue
        return await self._connect(addresses[-1], within_s)

    async def _connect(self, address: str, within_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        trust = self._dialling.trust if self._tls else None
        async with asyncio.timeout(within_s):
            transport, connection = await loop.create_connection(
                lambda: Connection(self, self._buffer, loop),
                address,
                self._port,
                ssl=trust,
                server_hostname=self._host if self._tls else None,
            )
        if not connection.is_lost:
            # Not before: of a connection that was cancelled while it was made, uvloop never says that it is lost.
            self._open.add(connection)
            _probe_tcp(transport.get_extra_info("socket"))
        return connection

    def _close_idle(self) -> None:
        """The oldest come first; the timer is set for the first that stays."""
        self._sweep = None
        if not self._idle:
            return
        loop = self._idle[0].loop
        while self._idle and self._idle[0].idle_since + KEEP_ALIVE_S <= loop.time():
            self._idle.pop(0).abort()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since + KEEP_ALIVE_S, self._close_idle)


def connections_of(
    urls: Iterable[str], headers: Mapping[str, str], dialling: Dialling, max_connections: int
) -> dict[str, Connections]:
    """Those to these URLs, by origin, which share `max_connections`."""
    origins = list(dict.fromkeys(origin(url) for url in urls))
    places = Places(max_connections, share_of_one(max_connections, len(origins)), dialling.timeouts.pool_wait_s)
    return {one: Connections(one, headers, dialling, places) for one in origins}


def origin(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def path_of(url: str) -> str:
    """The path of a URL as a request line has it."""
    return quote(urlsplit(url).path, safe="/%:@!$&'()*+,;=~") or "/"


def _host_header(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    default = HTTPS_PORT if parts.scheme == "https" else HTTP_PORT
    return host if parts.port in (None, default) else f"{host}:{parts.port}"


def _refuse(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        # It may be tried again at once: the backend itself did not refuse anything.
        waiter.set_exception(UpstreamBusy("all connections to the backend are in use", retry_after_s=0))


def _probe_tcp(sock: socket.socket | None) -> None:
    if sock is None:  # closed meanwhile
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_TCP_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_TCP_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
