"""Backends behind TLS, on real sockets: whose certificates are trusted, and what the operator hears otherwise."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from app.collect.client import ChatClient
from app.collect.plan import Prompt, Target, chat_url
from app.domain.models import Backend
from app.errors import UpstreamError, UpstreamUnreachable, UsageError
from app.upstream.client import Message, UpstreamClient
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.http.exchange import read_body
from app.upstream.http.faults import why
from tests.fakes.backend import TOKENS, FakeBackend
from tests.fakes.certificates import Authority
from tests.fakes.chat_server import ChatServer, Scripted
from tests.fakes.gateway import QUICK, bench, catalog_of
from tests.fakes.upstream import texts
from tests.fakes.world import FakeKey, request

MESSAGE = Message("/chat/completions", b'{"model": "small", "messages": []}', stream=False, request_id="r1")
UNKNOWN = "its certificate is signed by an authority that is not known; name the authority's file in ca_file"


@pytest.fixture
def authority() -> Authority:
    return Authority()


async def failure(url: str, ca_file: str | None) -> UpstreamError:
    """How the gateway's client fails at this URL."""
    backend = Backend("pool", "openai", (url,), ca_file=ca_file)
    async with UpstreamClient([backend], timeouts=QUICK) as client:
        with pytest.raises(UpstreamError) as caught:
            (await client.send("pool", url, MESSAGE)).close()
    return caught.value


async def test_a_backend_whose_authority_is_pinned_answers_plain_and_streamed(
    authority: Authority, tmp_path: Path
) -> None:
    async with FakeBackend(tls=authority.server()) as server:
        catalog = catalog_of(small=server)
        backends = tuple(replace(one, ca_file=authority.file(tmp_path)) for one in catalog.backends)
        async with UpstreamClient(backends, timeouts=QUICK) as client:
            gateway = bench(catalog, client).gateway
            for stream in (False, True):
                served = await gateway.complete(request(stream=stream), FakeKey())
                body = b"".join([piece async for piece in served.answer])
                assert texts(body) == "".join(TOKENS) if stream else b"Paris is the capital." in body
            assert len(server._writers) == 1, "the connection is used again"


def test_the_systems_authorities_are_loaded_once_and_only_where_something_speaks_tls() -> None:
    def trusts(*urls: str) -> list[ssl.SSLContext | None]:
        client = UpstreamClient([Backend(url, "openai", (url,)) for url in urls])
        return [client._dialling[url].trust for url in urls]

    assert trusts("http://127.0.0.1:1", "http://127.0.0.1:2") == [None, None]
    plain, one, two = trusts("http://127.0.0.1:1", "https://127.0.0.1:2", "HTTPS://127.0.0.1:3")
    assert (plain, one) == (None, two)
    assert one is not None
    assert one.verify_mode is ssl.CERT_REQUIRED


async def test_an_authority_of_somebody_else_is_not_trusted(authority: Authority, tmp_path: Path) -> None:
    async with FakeBackend(tls=authority.server()) as server:
        for ca_file in (None, Authority().file(tmp_path, "other.pem")):
            error = await failure(server.url, ca_file)
            assert isinstance(error, UpstreamUnreachable)
            assert why(error, server.url) == UNKNOWN
            assert error.message == "the backend cannot be reached", "callers hear nothing of it"
        assert server.calls == 0


async def test_a_pinned_authority_replaces_those_of_the_system(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.file(tmp_path))
    async with FakeBackend(tls=authority.server()) as server:
        async with UpstreamClient([Backend("pool", "openai", (server.url,))], timeouts=QUICK) as client:
            exchange = await client.send("pool", server.url, MESSAGE)
            assert await read_body(exchange, 1 << 20)
            exchange.close()
        error = await failure(server.url, Authority().file(tmp_path, "other.pem"))
    assert why(error, server.url) == UNKNOWN


async def test_a_certificate_that_has_expired_is_not_accepted(authority: Authority, tmp_path: Path) -> None:
    async with FakeBackend(tls=authority.server(ends_in_days=-1)) as server:
        error = await failure(server.url, authority.file(tmp_path))
    assert why(error, server.url) == "its certificate has expired; renew it"


async def test_a_certificate_that_is_not_valid_yet_is_not_accepted(authority: Authority, tmp_path: Path) -> None:
    async with FakeBackend(tls=authority.server(ends_in_days=90)) as server:
        error = await failure(server.url, authority.file(tmp_path))
    assert why(error, server.url) == "its certificate is not valid yet; compare the clocks of both machines"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_of_another_name_is_not_accepted(authority: Authority, tmp_path: Path, host: str) -> None:
    ca_file = authority.file(tmp_path)
    async with FakeBackend(tls=authority.server("other.example")) as server:
        url = f"https://{host}:{server.port}"
        error = await failure(url, ca_file)
        async with UpstreamClient([Backend("pool", "openai", (url,), ca_file=ca_file)]) as client:
            assert await client.certificate_names("pool", url, 2.0) == ("other.example",)
            assert await client.certificate_names("pool", "https://127.0.0.1:1", 2.0) == ()
    assert why(error, url) == f"its certificate is not for {host!r}"


async def speaker_of(words: bytes) -> asyncio.Server:
    """A server that says this as soon as it is spoken to."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(words)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(speak, "127.0.0.1", 0)


async def test_https_to_a_port_without_tls_says_so() -> None:
    server = await speaker_of(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await failure(url, None)
    assert isinstance(error, UpstreamUnreachable)
    assert why(error, url) == "does not speak TLS on this port; write http://, or correct the port"


async def test_https_to_a_port_that_waits_says_what_may_be_wrong() -> None:
    async with FakeBackend() as server:
        url = f"https://127.0.0.1:{server.port}"
        error = await failure(url, None)
    assert why(error, url) == (
        "does not take a connection in time; is the port open to this machine, and does it speak TLS?"
    )


async def test_http_to_a_port_with_tls_says_so(authority: Authority) -> None:
    async with FakeBackend(tls=authority.server()) as server:
        url = f"http://127.0.0.1:{server.port}"
        error = await failure(url, None)
    assert why(error, url) == "the backend closed the connection before it answered; if it speaks TLS, write https://"


async def test_a_server_that_wants_a_certificate_of_ours_is_no_crash(authority: Authority, tmp_path: Path) -> None:
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with FakeBackend(tls=context) as server:
        error = await failure(server.url, authority.file(tmp_path))
    assert why(error, server.url) == "breaks the connection off while it is made"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "refuses connections; does it run, and on this port?"),
        ("http://nowhere.invalid:80", "the name 'nowhere.invalid' is not known here; correct it, or the resolver"),
    ],
)
async def test_a_wrong_url_is_told_in_a_few_words(url: str, says: str) -> None:
    error = await failure(url, None)
    assert isinstance(error, UpstreamUnreachable)
    assert why(error, url) == says


async def test_a_name_with_forbidden_addresses_says_which_key_to_change() -> None:
    url = "http://localhost:1"
    async with UpstreamClient([Backend("pool", "openai", (url,), allow_cidr=("10.0.0.0/8",))]) as client:
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.send("pool", url, MESSAGE)
    assert why(caught.value, url) == "localhost has no address that the backend's allow_cidr allows"


async def test_the_event_of_an_ejection_says_what_is_wrong(authority: Authority) -> None:
    async with FakeBackend(tls=authority.server()) as server:
        catalog = catalog_of(small=server)
        async with UpstreamClient(catalog.backends, timeouts=QUICK) as client:
            world = bench(catalog, client)
            for _ in range(FAILURES_TO_EJECT):
                with pytest.raises(UpstreamUnreachable) as caught:
                    await world.gateway.complete(request(), FakeKey())
    assert caught.value.message == "the backend cannot be reached"
    (event,) = world.events("replica.ejected")
    assert (event["replica"], event["code"], event["why"]) == (server.url, "no_backend", UNKNOWN)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        ("", "holds no certificate in PEM form"),
        ("no certificate", "holds no certificate in PEM form"),
    ],
)
def test_a_ca_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError) as caught:
        UpstreamClient([Backend("paid", "openai", ("https://127.0.0.1",), ca_file=str(path))])
    assert str(caught.value) == f"backend 'paid': its ca_file {path} {says}"


def test_a_folder_is_no_ca_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"backend 'paid': its ca_file {tmp_path} "):
        UpstreamClient([Backend("paid", "openai", ("https://127.0.0.1",), ca_file=str(tmp_path))])


@pytest.mark.parametrize("key", ["secret\n", "secret\r\nx-evil: 1", "schlüssel"])
def test_a_key_that_no_header_can_carry_stops_the_start_and_is_not_shown(key: str) -> None:
    with pytest.raises(UsageError, match="backend 'paid': no header can carry its key") as caught:
        UpstreamClient([Backend("paid", "openai", ("https://127.0.0.1",))], {"paid": key})
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- the collecting client


@pytest.fixture
async def chats() -> AsyncIterator[ChatClient]:
    async with aiohttp.ClientSession() as session:
        yield ChatClient(session)


def target(url: str, ca_file: str | None) -> Target:
    return Target("m", "m", "paid", (chat_url(url),), ca_file=ca_file)


PROMPT = Prompt("p", "question", "exact", "ok", max_tokens=20)


async def test_collecting_trusts_the_authority_of_each_target(
    authority: Authority, tmp_path: Path, chats: ChatClient
) -> None:
    other = Authority()
    async with (
        ChatServer(lambda *_: Scripted(text="one"), tls=authority.server()) as one,
        ChatServer(lambda *_: Scripted(text="two"), tls=other.server()) as two,
    ):
        first = await chats.ask(target(one.url, authority.file(tmp_path)), PROMPT)
        second = await chats.ask(target(two.url, other.file(tmp_path, "other.pem")), PROMPT)
        with pytest.raises(UsageError) as caught:
            await chats.ask(target(two.url, authority.file(tmp_path)), PROMPT)
    assert (first.answer, second.answer) == ("one", "two")
    assert str(caught.value) == f"{chat_url(two.url)}: {UNKNOWN}"


async def test_collecting_stops_at_once_where_tls_cannot_work(
    authority: Authority, tmp_path: Path, chats: ChatClient
) -> None:
    async with ChatServer(lambda *_: Scripted(), tls=authority.server("other.example")) as server:
        with pytest.raises(UsageError) as caught:
            await chats.ask(target(server.url, authority.file(tmp_path)), PROMPT)
    assert str(caught.value) == f"{chat_url(server.url)}: its certificate is not for '127.0.0.1'"
