"""Streams to callers who read slowly: nothing that happens meanwhile is missed, nothing is held for them in vain."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import UpstreamError
from app.upstream.answers.answer import Answer, Form, read_answer
from app.upstream.http.deadline import CutShort, Deadline
from app.upstream.http.exchange import REST_WITHIN_S, Pace
from tests.fakes.clock import FakeClock
from tests.fakes.transport import Wire
from tests.fakes.upstream import chunk, event, texts

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = event(b"[DONE]")


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class FakeSink:
    """A caller who reads all at once, or nothing."""

    def __init__(self) -> None:
        self.sent = b""
        self.ended = False
        self._reads = asyncio.Event()
        self._reads.set()

    @property
    def is_full(self) -> bool:
        return not self._reads.is_set()

    def write_piece(self, piece: bytes, *, last: bool) -> None:
        self.sent += piece
        self.ended = last

    async def writable(self) -> None:
        await self._reads.wait()

    def stop(self) -> None:
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()


class World:
    """A stream that has begun, on its way to a caller."""

    def __init__(self) -> None:
        self.clock, self.wire, self.sink = FakeClock(), Wire(), FakeSink()
        self.given_back: list[UpstreamError | None] = []

    async def begin(self, total_s: float = 600.0) -> asyncio.Task[None]:
        exchange = await self.wire.ask(HEAD + framed(event(chunk("a"))))
        pace = Pace(30.0, Deadline.after(total_s, self.clock), self.clock, self.clock.call_later)
        self.answer: Answer = await read_answer(exchange, Form("shown", stream=True), pace)
        self.answer.on_close(lambda answer: self.given_back.append(answer.error))  # type: ignore[arg-type]
        relay = asyncio.create_task(self.answer.relay(self.sink))
        await settle()
        return relay

    def arrive(self, text: str) -> None:
        self.wire.arrive(framed(event(chunk(text))))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


LAST_EVENTS = framed(event(chunk("", "stop"))) + framed(DONE)


async def ended(world: World) -> asyncio.Task[None]:
    """A stream whose last event was passed on, and whose body has not ended."""
    relay = await world.begin()
    world.wire.arrive(LAST_EVENTS)
    await settle()
    return relay


@pytest.mark.parametrize("rest", [b"0\r\n\r\n", framed(b": bye\n\n" * 4000) + b"0\r\n\r\n"], ids=["its end", "more"])
async def test_a_request_is_over_with_its_last_event_and_its_connection_is_used_again_after_its_body(
    rest: bytes,
) -> None:
    world = World()
    relay = await ended(world)
    assert (relay.done(), world.given_back, world.sink.ended) == (True, [None], True)
    assert (world.wire.home.given_back, world.wire.transport.closing) == ([], False)
    world.wire.arrive(rest)
    assert (world.wire.home.given_back, world.wire.transport.paused) == ([True], False)
    assert texts(world.sink.sent) == "a"
    assert all(timer.cancelled for timer in world.clock.timers)


async def test_a_body_that_does_not_end_with_its_answer_is_given_up_soon() -> None:
    world = World()
    await ended(world)
    world.wire.arrive(framed(b": bye\n\n"))
    world.clock.advance(REST_WITHIN_S - 0.01)
    assert world.wire.home.given_back == []
    world.clock.advance(0.02)
    assert (world.wire.home.given_back, world.wire.transport.closing) == ([False], True)
    assert (world.given_back, world.answer.error) == ([None], None)


async def test_a_connection_that_closes_behind_its_last_event_leaves_nothing() -> None:
    world = World()
    await ended(world)
    world.wire.end()
    assert world.wire.home.given_back == [False]
    assert all(timer.cancelled for timer in world.clock.timers)


async def test_who_leaves_with_the_last_event_does_not_cut_the_backend_off() -> None:
    world = World()
    relay = await world.begin()
    world.wire.arrive(LAST_EVENTS)
    relay.cancel()
    await settle()
    world.answer.close()
    assert (relay.cancelled(), world.given_back, world.answer.complete) == (True, [None], True)
    world.wire.arrive(b"0\r\n\r\n")
    assert world.wire.home.given_back == [True]


def code_of(error: UpstreamError | None) -> str | None:
    return error.code if error else None


@pytest.mark.parametrize("reason", [None, ConnectionResetError()], ids=["closes", "resets"])
async def test_a_backend_that_goes_while_the_caller_is_slow_is_told_once_he_reads_on(reason: Exception | None) -> None:
    world = World()
    relay = await world.begin()
    world.sink.stop()
    world.arrive("b")
    await settle()
    world.arrive("c")
    world.wire.end(reason)
    await settle()
    world.sink.go_on()
    await settle()
    assert relay.done(), "not only after the limit for silence"
    assert texts(world.sink.sent) == "abc"
    assert world.sink.sent.count(b"upstream_disconnected") == 1
    assert (world.sink.ended, code_of(world.given_back[0])) == (True, "upstream_disconnected")


async def test_a_whole_stream_that_waited_for_a_slow_caller_is_passed_on() -> None:
    world = World()
    relay = await world.begin()
    world.sink.stop()
    world.arrive("b")
    await settle()
    world.wire.arrive(framed(event(chunk("", "stop"))) + framed(DONE) + b"0\r\n\r\n")
    assert not world.given_back
    world.sink.go_on()
    await relay
    assert world.sink.sent.endswith(DONE)
    assert (world.given_back, world.wire.home.given_back) == ([None], [True])


async def test_at_the_deadline_nothing_more_is_held_for_a_caller_who_does_not_read() -> None:
    world = World()
    relay = await world.begin(total_s=10)
    world.sink.stop()
    world.arrive("b")
    await settle()
    world.arrive("c")
    world.clock.advance(10)
    assert world.wire.transport.closing, "the backend hears of it at once"
    await settle()
    assert relay.done()
    assert (texts(world.sink.sent), world.sink.ended) == ("ab", True)
    assert world.sink.sent.count(b"upstream_timeout") == 1
    assert [code_of(error) for error in world.given_back] == ["upstream_timeout"]
    assert world.wire.home.given_back == [False]


async def test_an_answer_that_is_cut_does_not_wait_for_its_slow_caller_either() -> None:
    world = World()
    relay = await world.begin()
    world.sink.stop()
    world.arrive("b")
    # As it begins to wait, and before.
    world.answer.cut(CutShort("the gateway stops"))
    await settle()
    assert relay.done()
    assert world.sink.sent.count(b"draining") == 1
    assert (world.sink.ended, world.wire.home.given_back) == (True, [False])


async def test_a_slow_caller_who_leaves_gives_everything_back() -> None:
    world = World()
    relay = await world.begin()
    world.sink.stop()
    world.arrive("b")
    await settle()
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    world.answer.close()
    assert (relay.cancelled(), world.given_back, world.wire.home.given_back) == (True, [None], [False])
