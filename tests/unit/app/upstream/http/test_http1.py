"""One connection to a backend, byte by byte, without a socket."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import UpstreamBroken, UpstreamDisconnected, UpstreamError, UpstreamTimeout
from app.upstream.http.exchange import read_body
from app.upstream.http.faults import ClosedIdle, NoAnswer
from app.upstream.http.http1 import MAX_HEAD_BYTES, MAX_HEADERS, PAUSE_ABOVE_BYTES, HttpExchange
from tests.fakes.transport import Wire

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = (
    OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;name=value\r\n \r\n5\r\nworld\r\n0\r\nx-trailer: 1\r\n\r\n"
)
SIZED = OK + b"content-type: application/json\r\ncontent-length: 11\r\n\r\nhello world"
HEAD = OK + b"transfer-encoding: chunked\r\n\r\n"


async def body_of(exchange: HttpExchange) -> bytes:
    return await read_body(exchange, 1 << 20)


@pytest.mark.parametrize("answer", [CHUNKED, SIZED], ids=["chunked", "with a length"])
async def test_an_answer_is_the_same_wherever_the_network_cuts_it(answer: bytes) -> None:
    for first in range(len(answer) + 1):
        for second in {first, (first + len(answer)) // 2, len(answer)}:
            wire = Wire()
            pieces = [one for one in (answer[:first], answer[first:second], answer[second:]) if one]
            exchange = await wire.ask(*pieces)
            assert (exchange.status, await body_of(exchange)) == (200, b"hello world")
            exchange.close()
            assert wire.home.given_back == [True], (first, second)


async def test_an_answer_that_comes_byte_by_byte_is_whole() -> None:
    wire = Wire()
    exchange = await wire.ask(*(bytes([one]) for one in CHUNKED))
    assert exchange.content_type == "text/event-stream"
    assert await body_of(exchange) == b"hello world"


async def test_a_reader_gets_each_piece_as_it_comes() -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD)
    for text in (b"one", b"two"):
        reading = asyncio.ensure_future(exchange.read())
        await asyncio.sleep(0)
        assert not reading.done()
        wire.arrive(b"3\r\n%b\r\n" % text)
        assert await reading == text
    wire.arrive(b"3\r\nand\r\n", b"4\r\nmore\r\n", b"0\r\n\r\n")
    assert [await exchange.read(), await exchange.read()] == [b"andmore", b""]


async def test_one_answer_after_the_other_on_one_connection() -> None:
    wire = Wire()
    for answer in (SIZED, CHUNKED, OK + b"content-length: 0\r\n\r\n", SIZED):
        exchange = await wire.ask(answer)
        assert await body_of(exchange) in (b"hello world", b"")
        exchange.close()
        exchange.close()
    assert wire.home.given_back == [True] * 4


async def test_interim_answers_are_passed_over() -> None:
    wire = Wire()
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    exchange = await wire.ask(early, early + SIZED)
    assert (exchange.status, await body_of(exchange)) == (200, b"hello world")
    assert b"link" not in exchange.headers


@pytest.mark.parametrize("status", [204, 304])
async def test_some_statuses_have_no_body(status: int) -> None:
    wire = Wire()
    exchange = await wire.ask(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert (exchange.status, await exchange.read()) == (status, b"")
    exchange.close()
    assert wire.home.given_back == [True]


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    wire = Wire()
    exchange = await wire.ask(OK + b"connection: close\r\n\r\nhello", b" world")
    wire.end()
    assert await body_of(exchange) == b"hello world"
    exchange.close()
    assert wire.home.given_back == [False]


async def test_a_body_without_a_length_is_cut_when_its_connection_breaks() -> None:
    wire = Wire()
    exchange = await wire.ask(OK + b"\r\nhello")
    wire.end(ConnectionResetError())
    assert await exchange.read() == b"hello"
    with pytest.raises(UpstreamDisconnected):
        await exchange.read()


@pytest.mark.parametrize("answer", [CHUNKED, SIZED], ids=["chunked", "with a length"])
async def test_an_answer_that_is_cut_anywhere_is_no_whole_one(answer: bytes) -> None:
    body_at = answer.index(b"\r\n\r\n") + 4
    for cut in range(len(answer)):
        wire = Wire()
        asking = asyncio.ensure_future(wire.ask(answer[:cut] or b"\r\n"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wire.end()
        if cut < body_at:
            with pytest.raises(NoAnswer):
                await asking
        else:
            exchange = await asking
            with pytest.raises(UpstreamDisconnected):
                await body_of(exchange)
            exchange.close()
        assert wire.home.given_back == [False]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x16",
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        OK + b"content-length: -2\r\n\r\nok",
        OK + b"content-length: 99999999999999999999999\r\n\r\nok",
        OK + b"transfer-encoding: gzip\r\n\r\nok",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"x: a\r\n folded: b\r\n\r\n",
        OK + b"name : value\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: a\n\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        OK + b"x: 1\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        OK + b"x: %b\r\n\r\n" % (b"a" * MAX_HEAD_BYTES),
        OK + b"x: %b" % (b"a" * MAX_HEAD_BYTES),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000,
    ],
)
async def test_a_head_that_is_not_sound_is_a_broken_backend(answer: bytes) -> None:
    wire = Wire()
    with pytest.raises(UpstreamBroken):
        await wire.ask(answer)
    assert wire.transport.closing
    assert wire.home.given_back == [False]


@pytest.mark.parametrize(
    "rest",
    [b"zz\r\n", b"2\r\nokk\r\n", b"-1\r\n", b"0\r\nx: %b" % (b"a" * MAX_HEAD_BYTES), b"1;" + b"a" * MAX_HEAD_BYTES],
    ids=["no size", "longer than its size", "a negative size", "endless trailers", "an endless extension"],
)
async def test_a_body_that_is_not_sound_is_a_broken_backend(rest: bytes) -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD, b"5\r\nhello\r\n", rest)
    with pytest.raises(UpstreamBroken):
        await body_of(exchange)
    assert wire.transport.closing


async def test_the_status_of_a_compressed_answer_counts_and_its_body_does_not() -> None:
    wire = Wire()
    exchange = await wire.ask(
        b"HTTP/1.1 429 X\r\ncontent-encoding: gzip\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n"
    )
    assert (exchange.status, exchange.retry_after_s, exchange.used_up_s) == (429, 7.0, None)
    with pytest.raises(UpstreamBroken, match="compressed"):
        await exchange.read()


@pytest.mark.parametrize("extra", [SIZED, b"junk", b"\r\n"])
async def test_bytes_after_an_answer_are_not_taken_for_the_next_one(extra: bytes) -> None:
    wire = Wire()
    exchange = await wire.ask(SIZED)
    wire.arrive(extra)
    assert await body_of(exchange) == b"hello world"
    exchange.close()
    assert wire.home.given_back == [False]


@pytest.mark.parametrize("extra", [SIZED, b"junk"])
async def test_bytes_behind_an_answer_leave_it_whole_and_its_connection_unused(extra: bytes) -> None:
    wire = Wire()
    exchange = await wire.ask(SIZED + extra)
    assert await body_of(exchange) == b"hello world"
    exchange.close()
    assert wire.home.given_back == [False]


async def test_bytes_on_an_idle_connection_close_it() -> None:
    wire = Wire()
    wire.arrive(SIZED)
    assert wire.transport.closing


@pytest.mark.parametrize("says", [b"HTTP/1.0 200 OK\r\n", OK + b"Connection: Close\r\n"])
async def test_a_connection_that_will_be_closed_is_not_used_again(says: bytes) -> None:
    wire = Wire()
    exchange = await wire.ask(says + b"content-length: 2\r\n\r\nok")
    assert await body_of(exchange) == b"ok"
    exchange.close()
    assert wire.home.given_back == [False]


async def test_a_connection_with_unsent_bytes_is_not_used_again() -> None:
    wire = Wire()
    exchange = await wire.ask(SIZED)
    assert await body_of(exchange) == b"hello world"
    wire.transport.unsent = 1
    exchange.close()
    assert wire.home.given_back == [False]


async def test_closing_before_the_end_cuts_the_connection_at_once() -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD, b"5\r\nhello\r\n")
    reading = asyncio.ensure_future(body_of(exchange))
    await asyncio.sleep(0)
    exchange.close()
    assert wire.transport.closing
    with pytest.raises(UpstreamDisconnected):
        await reading


async def test_cancelling_before_the_head_cuts_the_connection_at_once() -> None:
    wire = Wire()
    asking = asyncio.ensure_future(wire.connection.ask(b"", b""))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert wire.transport.closing
    assert wire.home.given_back == [False]


async def test_nothing_is_sent_on_a_connection_that_is_closing() -> None:
    wire = Wire()
    wire.transport.closing = True
    with pytest.raises(NoAnswer):
        await wire.connection.ask(b"head", b"body")
    assert (wire.transport.written, wire.home.given_back) == (b"", [False])


CLOSED_IDLE = pytest.mark.parametrize("reason", [None, ConnectionResetError(), BrokenPipeError()], ids=repr)


async def asking_again(wire: Wire) -> asyncio.Task[HttpExchange]:
    """A second request, on a connection that had an answer before."""
    exchange = await wire.ask(SIZED)
    await body_of(exchange)
    exchange.close()
    asking = asyncio.create_task(wire.connection.ask(b"", b""))
    await asyncio.sleep(0)
    return asking


@CLOSED_IDLE
async def test_an_idle_connection_that_is_closed_as_it_is_used_again_leaves_its_place(reason: Exception | None) -> None:
    wire = Wire()
    asking = await asking_again(wire)
    wire.end(reason)
    with pytest.raises(ClosedIdle):
        await asking
    assert (wire.home.given_back, wire.home.lost_count) == ([True], 1)


@CLOSED_IDLE
async def test_a_new_connection_that_is_closed_is_no_idle_one(reason: Exception | None) -> None:
    wire = Wire()
    asking = asyncio.create_task(wire.connection.ask(b"", b""))
    await asyncio.sleep(0)
    wire.end(reason)
    with pytest.raises(NoAnswer) as caught:
        await asking
    assert not isinstance(caught.value, ClosedIdle)
    assert wire.home.given_back == [False]


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([b"H"], None),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], ConnectionResetError()),
        ([b"<html>"], None),
        ([], TimeoutError()),
        ([], OSError("no route")),
    ],
    ids=["a byte", "an interim answer", "no HTTP", "after a time-out", "for another reason"],
)
async def test_an_idle_connection_that_brought_something_or_broke_otherwise_is_given_up(
    pieces: list[bytes], reason: Exception | None
) -> None:
    wire = Wire()
    asking = await asking_again(wire)
    wire.arrive(*pieces)
    wire.end(reason)
    with pytest.raises(NoAnswer) as caught:
        await asking
    assert not isinstance(caught.value, ClosedIdle)
    assert wire.home.given_back == [True, False]


async def test_an_idle_connection_that_we_close_ourselves_is_given_up() -> None:
    wire = Wire()
    asking = await asking_again(wire)
    wire.connection.abort()
    wire.end()
    with pytest.raises(NoAnswer) as caught:
        await asking
    assert not isinstance(caught.value, ClosedIdle)
    assert wire.home.given_back == [True, False]


async def test_failing_ends_the_pending_read_and_every_next_one() -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD)
    reading = asyncio.ensure_future(exchange.read())
    await asyncio.sleep(0)
    wire.arrive(b"5\r\nhello\r\n")
    exchange.fail(UpstreamTimeout("silent"))
    for read in (reading, exchange.read()):
        with pytest.raises(UpstreamTimeout, match="silent"):
            await read


async def test_failing_cuts_the_connection_at_once_even_where_nobody_reads() -> None:
    wire = Wire()
    exchange = await wire.ask(SIZED)
    exchange.fail(UpstreamTimeout("late"))
    assert wire.transport.closing
    wire.end()
    with pytest.raises(UpstreamTimeout, match="late"):
        exchange.ready()
    exchange.close()
    assert wire.home.given_back == [False]


async def test_a_connection_is_not_read_from_while_its_reader_is_behind() -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD)
    piece = b"2000\r\n%b\r\n" % bytes(0x2000)
    wire.arrive(piece, piece)
    assert (exchange.unread_bytes, wire.transport.paused) == (PAUSE_ABOVE_BYTES, False)
    wire.arrive(piece)
    assert wire.transport.paused
    assert len(await exchange.read()) == 3 * 0x2000
    assert (exchange.unread_bytes, wire.transport.paused) == (0, False)


async def test_a_connection_whose_listener_takes_all_that_arrives_is_never_paused() -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD)
    taken: list[bytes | None] = []
    exchange.listen(lambda: taken.append(exchange.ready()))
    wire.arrive(b"8000\r\n%b\r\n" % bytes(0x8000))
    assert (taken, wire.transport.pauses) == ([bytes(0x8000)], 0)


async def test_a_broken_connection_says_why() -> None:
    wire = Wire()
    exchange = await wire.ask(HEAD)
    reset = ConnectionResetError()
    wire.end(reset)
    with pytest.raises(UpstreamError) as caught:
        await exchange.read()
    assert caught.value.__cause__ is reset
