"""The watch over a stream that falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from app.errors import UpstreamError
from app.upstream.http.deadline import HELD_UP_S, Deadline
from app.upstream.http.exchange import Exchange, Pace, Watch
from tests.fakes.clock import FakeClock

IDLE_S = 3.0


class World:
    """A stream from which nothing comes, and an event loop that looks at its timers when it is told to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.failures: list[UpstreamError] = []
        self._look: Callable[[], object] = lambda: None
        self.watch = Watch(
            cast("Exchange", self), Pace(IDLE_S, Deadline.after(60, self.clock), self.clock, self.call_later)
        )

    def call_later(self, _: float, look: Callable[[], object]) -> asyncio.TimerHandle:
        self._look = look
        return cast("asyncio.TimerHandle", None)

    def fail(self, error: UpstreamError) -> None:
        self.failures.append(error)

    def looks_after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._look()


@pytest.fixture
def world() -> World:
    world = World()
    world.watch.wait()
    return world


def test_a_stream_that_is_silent_for_too_long_fails(world: World) -> None:
    world.looks_after(IDLE_S)
    assert [str(error) for error in world.failures] == ["the backend was silent for 3 s"]


def test_what_came_while_the_process_stood_still_is_heard_first(world: World) -> None:
    world.looks_after(IDLE_S + 2 * HELD_UP_S)
    assert world.failures == []
    world.watch.again()
    world.looks_after(0.001)
    assert world.failures == []


def test_where_nothing_came_it_fails_at_the_next_look(world: World) -> None:
    world.looks_after(IDLE_S + 2 * HELD_UP_S)
    world.looks_after(0.001)
    assert len(world.failures) == 1
