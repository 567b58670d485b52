"""Two ends of a channel: questions both ways, and an end that goes away."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.crew.channel import MAX_UNREAD_BYTES, Channel, NotAnswered, OtherSideGone


@asynccontextmanager
async def connected(heard: list[Any] | None = None) -> AsyncIterator[tuple[Channel, Channel]]:
    async def doubled(what: str, value: Any) -> Any:
        if heard is not None:
            heard.append((what, value))
        if what == "never":
            await asyncio.Event().wait()
        if what == "fail":
            raise ValueError("a secret")
        if what == "no JSON":
            return object()
        return [value, value]

    ends = socket.socketpair()
    one, other = [await Channel.over(end, doubled) for end in ends]
    try:
        yield one, other
    finally:
        await one.aclose()
        await other.aclose()


async def test_both_ends_ask_at_a_time() -> None:
    async with connected() as (one, other):
        questions = [end.ask("double", number) for number in range(20) for end in (one, other)]
        assert await asyncio.gather(*questions) == [[number, number] for number in range(20) for _ in range(2)]


async def test_what_is_told_is_heard() -> None:
    heard: list[Any] = []
    async with connected(heard) as (one, _):
        one.tell("news", {"a": 1})
        await one.ask("double", "\n")
    assert heard == [("news", {"a": 1}), ("double", "\n")]


async def test_who_waits_for_an_end_that_goes_away_hears_of_it() -> None:
    async with connected() as (one, other):
        waiting = asyncio.create_task(one.ask("never"))
        await asyncio.sleep(0)
        await other.aclose()
        with pytest.raises(OtherSideGone):
            await waiting
        await one.closed.wait()
        with pytest.raises(OtherSideGone):
            await one.ask("double", 1)
        one.tell("news", 1)


@pytest.mark.parametrize(("question", "kind"), [("fail", "ValueError"), ("no JSON", "TypeError")])
async def test_who_asks_what_cannot_be_answered_hears_of_it(question: str, kind: str) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(repr(context["exception"])))
    async with connected() as (one, other):
        with pytest.raises(NotAnswered, match=f"{kind} at .*test_channel|{kind} at .*channel.py") as caught:
            await one.ask(question, within_s=5)
        assert "secret" not in str(caught.value)
        assert await other.ask("double", 1) == [1, 1], "both ends go on"
    gc.collect()
    assert [line.partition("(")[0] for line in told] == [kind], "the end that failed tells, too"


async def test_who_sets_a_limit_does_not_wait_for_longer() -> None:
    async with connected() as (one, _):
        with pytest.raises(TimeoutError):
            await one.ask("never", within_s=0.01)
        assert one._waiting == {}
        assert await one.ask("double", 1, within_s=5) == [1, 1]


async def test_nothing_more_is_told_to_an_end_that_does_not_read() -> None:
    async def nothing(*_: Any) -> None:
        pass

    ours, theirs = socket.socketpair()
    one = await Channel.over(ours, nothing)
    with theirs:
        for _ in range(40):
            one.tell("news", "x" * (1 << 20))
        assert one._writer.transport.get_write_buffer_size() <= MAX_UNREAD_BYTES + (1 << 21)
    await one.aclose()
