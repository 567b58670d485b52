"""Who is turned away when it is crowded, and by which of the three readings."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
from collections import Counter
from dataclasses import dataclass, field

import pytest

from app.admission.shedding import (
    BUSY_S,
    LATE_S,
    MUCH_TOO_LATE_S,
    PROBE_EVERY_S,
    RETRY_WITHIN_S,
    Shedding,
    refusal,
)
from tests.fakes.clock import FakeClock

PRIORITIES = ("low", "normal", "high")


@dataclass
class World:
    """A gateway as full as it is told to be."""

    places: float = 0.0
    memory: float = 0.0
    busy: float = 1.0
    """The share of a processor that the loop has."""
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.shedding = Shedding(lambda: self.places, lambda: self.memory)
        self.shedding.probe(self.clock, self.clock.call_later, lambda: self.clock() * self.busy)

    def turned_away(self) -> tuple[str, ...]:
        return tuple(priority for priority in PRIORITIES if self.shedding.sheds(priority))

    def late_by(self, seconds: float, times: int = 1) -> None:
        """Let the loop be late, so often."""
        for _ in range(times):
            self.clock.now += PROBE_EVERY_S + seconds
            self.clock.advance(0)


@pytest.mark.parametrize(
    ("places", "turned_away"),
    [
        (0.0, ()),
        (0.59, ()),
        (0.6, ("low",)),
        (0.84, ("low",)),
        (0.85, ("low", "normal")),
        (0.999, ("low", "normal")),
        (1.0, PRIORITIES),
    ],
)
def test_the_lower_the_priority_the_earlier_it_is_turned_away(places: float, turned_away: tuple[str, ...]) -> None:
    assert World(places=places).turned_away() == turned_away


def test_a_loop_that_stays_late_turns_more_and_more_away_from_the_low_end() -> None:
    world = World()
    seen: list[tuple[str, ...]] = []
    for late_s in 3 * [BUSY_S + 2 * LATE_S] + 40 * [2 * LATE_S] + 5 * [MUCH_TOO_LATE_S]:
        world.late_by(late_s)
        if not seen or seen[-1] != world.turned_away():
            seen.append(world.turned_away())
    assert [each for each in seen if each in ((), ("low",), ("low", "normal"), PRIORITIES)] == sorted(seen, key=len)
    assert seen[0] == ()
    assert seen[-1] == PRIORITIES


@pytest.mark.parametrize("pause_s", [0.05, 0.1, 0.11, 0.4, 2.0, 60.0])
def test_one_long_step_turns_nobody_away(pause_s: float) -> None:
    world = World()
    world.late_by(pause_s)
    assert [world.turned_away() for _ in range(10)] == [()] * 10


def test_a_loop_that_is_in_time_again_takes_everybody_within_a_second() -> None:
    world = World()
    world.late_by(1.0, times=5)
    assert world.turned_away() == PRIORITIES
    world.clock.advance(1.0)
    assert world.turned_away() == ()


def test_a_loop_may_be_busy_until_somebody_is_turned_away_and_then_has_to_be_in_time_again() -> None:
    world = World()
    world.late_by(BUSY_S, times=500)
    assert world.turned_away() == ()
    world.late_by(BUSY_S + LATE_S, times=3)
    assert world.turned_away() == ("low",)
    world.late_by(2 * LATE_S, times=20)
    assert world.turned_away() == ("low", "normal")
    world.clock.advance(1.0)
    world.late_by(BUSY_S, times=500)
    assert world.turned_away() == ()


def test_a_loop_that_waits_for_a_busy_machine_turns_nobody_away() -> None:
    world = World(busy=0.5)
    world.late_by(0.3, times=50)
    assert world.turned_away() == ()


@dataclass
class Loop:
    """An event loop that handles whatever has arrived, then its timers; an answer costs a unit, a refusal little."""

    rate: float
    shares: tuple[float, float, float] = (0.3, 0.6, 0.1)
    unit_s: float = 0.001
    refusal_s: float = 0.00005
    waits_s: list[float] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float) -> None:
        chance, clock = random.Random(7), FakeClock()
        shedding = Shedding(lambda: 0.0, lambda: 0.0)
        shedding.probe(clock, clock.call_later, clock)
        due_at, first_second, end = clock.now, clock.now + 1, clock.now + seconds
        while due_at < end:
            clock.advance(max(0.0, due_at - clock.now))
            now = clock.now
            while due_at <= now:
                priority = chance.choices(PRIORITIES, self.shares)[0]
                taken = not shedding.sheds(priority)
                clock.now += self.unit_s if taken else self.refusal_s
                if due_at > first_second:
                    self.waits_s.append(clock.now - due_at)
                self.taken[priority] += taken
                self.asked[priority] += 1
                due_at += chance.expovariate(self.rate)
            clock.advance(0)

    def run_with(self, callers: int, seconds: float) -> None:
        """As many callers as this, who ask again as soon as they hear something."""
        chance, clock = random.Random(7), FakeClock()
        shedding = Shedding(lambda: 0.0, lambda: 0.0)
        shedding.probe(clock, clock.call_later, clock)
        asked_at = [clock.now] * callers
        while clock.now < seconds:
            waiting, asked_at = asked_at, []
            for since in waiting:
                priority = chance.choices(PRIORITIES, self.shares)[0]
                taken = not shedding.sheds(priority)
                clock.now += self.unit_s * chance.uniform(0.7, 1.3) if taken else self.refusal_s
                self.waits_s.append(clock.now - since)
                self.taken[priority] += taken
                self.asked[priority] += 1
                asked_at.append(clock.now)
            clock.advance(0)

    def share(self, priority: str) -> float:
        return self.taken[priority] / self.asked[priority]


@pytest.mark.parametrize("load", [1.2, 2.0, 4.0])
def test_a_loop_with_too_much_to_do_does_as_much_as_it_can_and_nobody_waits_long(load: float) -> None:
    """The model behind the constants: with none of them the waits grow without end."""
    loop = Loop(rate=load / 0.001)
    loop.run(20)
    refused = loop.refusal_s / loop.unit_s
    best = (1 - load * refused) / (1 - refused)
    wait_s = statistics.quantiles(loop.waits_s, n=100)[98]
    print(json.dumps({"load": load, "p99_wait_s": round(wait_s, 3), **{p: loop.share(p) for p in PRIORITIES}}))
    assert sum(loop.taken.values()) * loop.unit_s / 20 >= 0.9 * best
    assert wait_s < (BUSY_S if load < 1.5 else 0.0) + 0.1
    assert loop.share("high") >= 0.95
    assert loop.share("low") < loop.share("normal") < loop.share("high")


def test_even_what_is_urgent_is_turned_away_where_nothing_else_helps() -> None:
    loop = Loop(rate=2000, shares=(0, 0, 1))
    loop.run(20)
    wait_s = statistics.quantiles(loop.waits_s, n=100)[98]
    assert loop.share("high") >= 0.4
    assert wait_s < 0.5


def test_a_loop_that_is_only_a_little_late_takes_what_is_urgent() -> None:
    world = World()
    for _ in range(200):
        world.late_by(MUCH_TOO_LATE_S / 2)
        assert not world.shedding.sheds("high")


def test_a_loop_that_can_do_it_all_turns_hardly_anybody_away() -> None:
    loop = Loop(rate=900)
    loop.run(20)
    assert sum(loop.taken.values()) / sum(loop.asked.values()) > 0.995


@pytest.mark.parametrize("callers", [8, 32, 64, 128])
def test_callers_who_each_wait_for_their_answer_are_all_answered(callers: int) -> None:
    loop = Loop(rate=0)
    loop.run_with(callers, 20)
    assert loop.taken == loop.asked


@pytest.mark.parametrize(
    ("used", "turned_away"),
    [(0.84, ()), (0.86, ("low",)), (0.92, ("low", "normal")), (0.96, PRIORITIES)],
)
def test_memory_that_runs_out_turns_low_away_first_and_all_before_the_kernel_does(
    used: float, turned_away: tuple[str, ...]
) -> None:
    world = World(memory=used)
    world.clock.advance(1.1)
    assert world.turned_away() == turned_away
    world.memory = 0.5
    world.clock.advance(1.1)
    assert world.turned_away() == ()


def test_memory_is_looked_at_about_once_a_second() -> None:
    looks = 0

    def memory() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    clock = FakeClock()
    Shedding(lambda: 0.0, memory).probe(clock, clock.call_later, clock)
    clock.advance(10.1)
    assert 8 <= looks <= 12


def test_callers_who_were_turned_away_together_come_back_over_some_seconds() -> None:
    refusals = [refusal() for _ in range(200)]
    assert {one.retry_after_s for one in refusals} == set(range(1, RETRY_WITHIN_S + 1))
    assert {(one.status, one.code) for one in refusals} == {(503, "overloaded")}


def test_the_readings_are_told_by_name() -> None:
    world = World(places=0.25, memory=0.9)
    world.late_by(2 * LATE_S)
    world.late_by(BUSY_S + LATE_S)
    strain = PROBE_EVERY_S + BUSY_S + LATE_S
    assert world.shedding.readings() == pytest.approx({"places": 0.25, "memory": 0.8, "strain": strain})


async def test_in_a_real_loop_it_looks_until_the_end() -> None:
    looked = asyncio.Event()

    def memory() -> float:
        looked.set()
        return 1.0

    with Shedding(lambda: 0.0, memory) as shedding:
        assert not shedding.sheds("high")
        await looked.wait()
        assert shedding.sheds("high")
