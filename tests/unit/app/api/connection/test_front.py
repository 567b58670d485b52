"""The timer that looks through all connections of a listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from app.api.connection.front import SWEEP_EVERY_S, Front
from tests.fakes.clock import FakeClock, FakeTimer


class FakeLoop:
    """As much of an event loop as timers need."""

    def __init__(self) -> None:
        self.time = FakeClock()

    def call_later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> FakeTimer:
        return self.time.call_later(delay_s, lambda: callback(*args))


class FakeCaller:
    """A connection that is overdue at a time, or never."""

    def __init__(self, due_at: float = float("inf")) -> None:
        self.due_at = due_at
        self.told = 0

    def overdue(self) -> None:
        self.told += 1

    def give_way(self) -> None:
        self.told = -1


def world() -> tuple[Front, FakeLoop, asyncio.AbstractEventLoop]:
    loop = FakeLoop()
    return Front(cast("Any", None), {}), loop, cast("asyncio.AbstractEventLoop", loop)


def test_a_connection_is_told_soon_after_it_is_overdue() -> None:
    front, fake, loop = world()
    late, patient = FakeCaller(fake.time() + 3 * SWEEP_EVERY_S), FakeCaller()
    front.join(late, loop)
    front.join(patient, loop)
    fake.time.advance(3 * SWEEP_EVERY_S - 0.01)
    assert late.told == 0
    fake.time.advance(SWEEP_EVERY_S)
    assert (late.told, patient.told) == (1, 0)


def test_one_timer_looks_through_all_however_often_they_come_and_go() -> None:
    front, fake, loop = world()
    for _ in range(1000):
        brief = FakeCaller()
        front.join(brief, loop)
        front.leave(brief)
    assert len(fake.time.timers) == 1
    stays = FakeCaller(fake.time())
    front.join(stays, loop)
    fake.time.advance(10 * SWEEP_EVERY_S)
    assert stays.told == 10


def test_nobody_is_looked_for_where_nobody_is_and_who_comes_later_is_looked_after() -> None:
    front, fake, loop = world()
    gone, late = FakeCaller(), FakeCaller(fake.time())
    front.join(gone, loop)
    front.leave(gone)
    fake.time.advance(2 * SWEEP_EVERY_S)
    assert fake.time.timers == []
    front.join(late, loop)
    fake.time.advance(SWEEP_EVERY_S)
    assert late.told == 1


def test_who_waits_longest_makes_room_but_not_who_is_spared_yet() -> None:
    front, _, loop = world()
    first, second, third = (FakeCaller() for _ in range(3))
    for now, caller in enumerate((first, second, third)):
        front.join(caller, loop)
        front.waits(caller, float(now))
    front.goes_on(second)
    front.waits(second, 4.0)
    assert front.make_room(0.0)
    assert (first.told, second.told, third.told) == (-1, 0, 0)
    assert not front.make_room(1.0)
    assert front.make_room(4.0)
    assert (second.told, third.told) == (0, -1)
    assert front.make_room(4.0)
    assert not front.make_room(100.0)
    assert front.connections == set()
