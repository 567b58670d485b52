"""Two ends of a channel: questions both ways, and an end that goes away."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.channel import Channel, OtherSideGone


@asynccontextmanager
async def connected(heard: list[Any] | None = None) -> AsyncIterator[tuple[Channel, Channel]]:
    async def doubled(what: str, value: Any) -> Any:
        if heard is not None:
            heard.append((what, value))
        if what == "never":
            await asyncio.Event().wait()
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
        await asyncio.sleep(0.01)
        await other.aclose()
        with pytest.raises(OtherSideGone):
            await waiting
        await one.closed.wait()
        with pytest.raises(OtherSideGone):
            await one.ask("double", 1)
        one.tell("news", 1)
