"""Where the gateway connects to: a trap on loopback listens, and nothing that leads to it may be followed.

The forms are tried as a backend's configured URL, as what names resolve to, as the target of redirects, and in every
field and header that a caller can set. That they do lead to the trap is shown with a gateway that may use loopback.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.domain.models import Backend
from app.errors import UpstreamError, UsageError
from app.upstream.client import Message, UpstreamClient
from app.upstream.http.deadline import Timeouts
from app.upstream.http.lookups import Lookups
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import SECRET, deployed

MESSAGE = Message("/chat/completions", b'{"model": "small", "messages": []}', stream=False, request_id="r1")
STREAMED = replace(MESSAGE, body=b'{"model": "small", "messages": [], "stream": true}', stream=True)
TIMEOUTS = Timeouts(connect_s=0.5, pool_wait_s=0.2)
# fmt: off
HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "127.0.0.2", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0x7f.0.0.1",
    "0177.0.0.1", "0177.1", "127.0x0.1", "00000177.0.0.1", "0x7F.0x0.0x0.0x1", "0", "0.0.0.0", "0x0", "00",
    "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "ip6-localhost", "１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1",
    "%31%32%37.0.0.1", "127.0.0.1%00", "127.0.0.1%2f.example", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::1%lo]",
    "[fe80::1%lo]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "169.254.169.254", "2852039166", "0xa9fea9fe",
    "0251.0376.0251.0376", "169.254.43518", "[fec0::1]", "[ff02::1]", "224.0.0.1", "255.255.255.255",
    "100.100.100.200", "192.0.0.192", "10.0.0.1", "192.168.0.1", "[::1", "::1",
]
# fmt: on
FORMS = [
    *(f"http://{host}:PORT" for host in HOSTS),
    "http://user:secret@127.0.0.1:PORT",
    "http://127.0.0.1:PORT@worker.example",
    "http://worker.example@127.0.0.1:PORT",
    "http://worker.example:80@127.0.0.1:PORT/",
    "http://worker.example\\@127.0.0.1:PORT",
    "http:\\\\127.0.0.1:PORT",
    "http:/127.0.0.1:PORT",
    "http:127.0.0.1:PORT",
    "//127.0.0.1:PORT",
    "HTTP://127.0.0.1:PORT",
    "http://127.0.0.1:PORT#@worker.example",
    "http://127.0.0.1:PORT?x=worker.example",
    "http://127.0.0.1:PORT/\r\nx-injected: 1",
    "http://127.0.0.1:PORT\t",
    " http://127.0.0.1:PORT",
    "https://127.0.0.1:PORT",
    "ftp://127.0.0.1:PORT",
    "gopher://127.0.0.1:PORT/_GET",
    "file:///proc/self/environ",
    "unix:///run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock",
]


@dataclass
class Trap:
    """Counts who connects to it."""

    port: int = 0
    seen: int = 0

    def connected(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen += 1
        writer.close()

    def forms(self) -> list[str]:
        return [form.replace("PORT", str(self.port)) for form in FORMS]


@asynccontextmanager
async def trapping() -> AsyncIterator[Trap]:
    """One port on both loopback addresses."""
    trap = Trap()
    async with await asyncio.start_server(trap.connected, "127.0.0.1", 0) as server:
        trap.port = server.sockets[0].getsockname()[1]
        async with await asyncio.start_server(trap.connected, "::1", trap.port):
            yield trap


def report(name: str, trap: Trap, tried: int, **more: Any) -> None:
    print(json.dumps({"test": name, "tried": tried, "connections": trap.seen, **more}))


async def attempt(url: str, allow_cidr: Sequence[str] = (), *, loopback: bool = False) -> str:
    """What becomes of a backend that is configured so."""
    backend = Backend("pool", "vllm", (url,), allow_cidr=tuple(allow_cidr))
    try:
        client = UpstreamClient([backend], timeouts=TIMEOUTS, allow_loopback=loopback)
    except UsageError:
        return "refused at the start"
    async with client:
        for asking in (client.send("pool", url, MESSAGE), client.fetch("pool", url, 1.0)):
            with suppress(UpstreamError):
                await asking
        await client.certificate_names("pool", url, 0.5)
    return "refused when connecting"


async def test_no_form_of_a_configured_url_leads_to_an_address_outside_the_list() -> None:
    assert len(set(FORMS)) >= 60
    ends: Counter[str] = Counter()
    async with trapping() as trap:
        for url in trap.forms():
            for allowed in ((), ("10.11.0.0/16",), ("2001:db8::/32",)):
                ends[await attempt(url, allowed)] += 1
        report("configured URLs", trap, ends.total(), **ends)
        assert trap.seen == 0
        assert min(ends.values()) > 20, "both ways of refusing are tried"
        reached = 0
        # Tests may connect to 127.0.0.1 and ::1 and to nothing else, however it is written.
        for url in (form for form in trap.forms() if "127.0.0.2" not in form and ("[" not in form or "[::1]" in form)):
            seen = trap.seen
            await attempt(url, loopback=True)
            reached += trap.seen > seen
        assert reached > 20, "the trap works"


@pytest.mark.parametrize(
    "found", [["::1"], ["::ffff:127.0.0.1"], ["0.0.0.0"], ["127.0.0.1", "::1"], ["169.254.169.254"]]
)
async def test_a_name_leads_to_allowed_addresses_only(found: list[str]) -> None:
    async def resolve(_: str) -> Sequence[str]:
        return found

    async with trapping() as trap:
        url = f"http://worker.example:{trap.port}"
        async with UpstreamClient([Backend("pool", "vllm", (url,))], allow_loopback=False, resolve=resolve) as client:
            with pytest.raises(UpstreamError):
                await client.send("pool", url, MESSAGE)
        assert trap.seen == 0


async def test_a_name_that_changes_its_address_is_checked_at_each_connection() -> None:
    """The address that was checked is the one that is connected to: the name is not asked for twice."""
    asked: list[str] = []

    async def rebind(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["::1"]

    async with FakeBackend(Script(hang_after=1)) as worker:
        trap = Trap(worker.port)
        url = f"http://worker.example:{worker.port}"
        backend = Backend("pool", "vllm", (url,), allow_cidr=("127.0.0.1/32",))
        listening_too = await asyncio.start_server(trap.connected, "::1", worker.port)
        async with listening_too, UpstreamClient([backend], resolve=rebind) as client:
            first = await client.send("pool", url, STREAMED)
            assert (first.status, asked) == (200, ["worker.example"])
            first.close()  # not read to its end, so the next one needs a new connection
            for _ in range(5):
                with pytest.raises(UpstreamError):
                    await client.send("pool", url, STREAMED)
        report("a name that changes", trap, len(asked))
        assert (len(asked), trap.seen) == (6, 0)


async def test_the_system_resolver_says_all_addresses_once() -> None:
    found = await Lookups()("localhost")
    assert "127.0.0.1" in found
    assert len(found) == len(set(found))


@asynccontextmanager
async def redirecting(target: str, status: int) -> AsyncIterator[str]:
    location = target.replace("\r\n", "").strip().encode()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 %d X\r\nlocation: %b\r\nrefresh: 0; url=%b\r\ncontent-length: 0\r\n" % (
            status,
            location,
            location,
        )
        writer.write(head + b"connection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_redirects_lead_nowhere() -> None:
    tried = 0
    async with trapping() as trap:
        for number, target in enumerate(trap.forms()):
            status = (300, 301, 302, 303, 307, 308)[number % 6]
            async with redirecting(target, status) as url, UpstreamClient([Backend("pool", "vllm", (url,))]) as client:
                exchange = await client.send("pool", url, MESSAGE)
                assert exchange.status == status
                exchange.close()
                with pytest.raises(UpstreamError):
                    await client.fetch("pool", url + "/metrics", 1.0)
                tried += 2
        report("redirects", trap, tried)
        assert trap.seen == 0


async def test_a_page_elsewhere_is_not_fetched_for_a_backend() -> None:
    async with trapping() as trap, FakeBackend() as worker:
        async with UpstreamClient([Backend("pool", "vllm", (worker.url,))]) as client:
            with pytest.raises(UpstreamError, match="not an address of"):
                await client.fetch("pool", f"http://127.0.0.1:{trap.port}/metrics", 1.0)
        assert trap.seen == 0


def bodies_with(url: str) -> list[dict[str, Any]]:
    """Requests that have it in each field that could hold one."""
    good: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": url}}}
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$ref": url, "$schema": url}}}
    parts: list[Any] = [
        url,
        [{"type": "image_url", "image_url": {"url": url}}],
        [{"type": "image_url", "image_url": url}],
        [{"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}],
        [{"type": "video_url", "video_url": {"url": url}}],
        [{"type": "file", "file": {"file_data": url}}],
    ]
    fields: list[dict[str, Any]] = [
        *({"messages": [{"role": role, "content": part}]} for part in parts for role in ("user", "system")),
        {"tools": [tool]},
        {"response_format": schema},
        *({name: url} for name in ("model", "user", "base_url", "api_base", "proxy", "endpoint", "url", "guided_json")),
        {"models": ["small", url]},
        {"metadata": {"url": url}},
        *({"routing": {name: url}} for name in ("profile", "model", "backend", "url", "session")),
        {"routing": {"models": [url]}},
        {"extra_body": {"base_url": url}},
    ]
    return [{**good, **one} for one in fields]


HEADERS = (
    "x-forwarded-host",
    "x-forwarded-for",
    "forwarded",
    "x-original-url",
    "x-rewrite-url",
    "x-real-ip",
    "origin",
    "referer",
    "via",
    "proxy",
    "x-thalamus-backend",
    "x-thalamus-url",
    "x-thalamus-replica",
    "x-thalamus-model",
    "traceparent",
    "x-request-id",
)


async def test_nothing_that_a_caller_sets_leads_the_gateway_anywhere(tmp_path: Path) -> None:
    statuses: Counter[int] = Counter()
    async with trapping() as trap, deployed(tmp_path, "small", "large") as gateway:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as session:

            async def post(body: dict[str, Any], **headers: str) -> None:
                path = gateway.url + "/v1/chat/completions"
                async with session.post(path, json=body, headers=headers) as response:
                    statuses[response.status] += 1
                    await response.read()

            for url in trap.forms():
                for body in bodies_with(url):
                    await post(body)
                encoded = base64.b64encode(url.encode()).decode()
                await post({**bodies_with("hello")[0], "user": encoded}, **dict.fromkeys(HEADERS, _printable(url)))
        received = [one for backend in gateway.backends.values() for one in backend.requests]
    report("fields and headers of callers", trap, statuses.total(), statuses=dict(statuses))
    assert trap.seen == 0
    assert statuses[200] > 60
    assert max(statuses) < 500
    # A worker would fetch what a request names: so none may pass.
    assert received
    assert not [one for one in received if any(_kind(part) != "text" for part in _parts(one.body))]


def _printable(url: str) -> str:
    return "".join(one for one in url if one.isascii() and one.isprintable())


def _parts(body: Any) -> list[Any]:
    contents = [message["content"] for message in body["messages"]]
    return [part for content in contents if isinstance(content, list) for part in content]


def _kind(part: Any) -> Any:
    return part.get("type")


async def test_a_request_line_with_an_address_is_not_followed(tmp_path: Path) -> None:
    async with trapping() as trap, deployed(tmp_path, "small", "large") as gateway:
        port = int(gateway.url.rpartition(":")[2])
        lines = [b"GET http://127.0.0.1:%d/v1/models", b"CONNECT 127.0.0.1:%d", b"GET //127.0.0.1:%d/"]
        for line in lines:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            host = b"host: 127.0.0.1:%d\r\nauthorization: Bearer %b\r\nconnection: close\r\n\r\n"
            writer.write(line % trap.port + b" HTTP/1.1\r\n" + host % (trap.port, SECRET.encode()))
            async with asyncio.timeout(5):
                assert await reader.read() != b""
            writer.close()
        assert trap.seen == 0
