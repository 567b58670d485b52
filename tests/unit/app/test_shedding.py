"""Who is turned away when it is crowded, and by which of the three readings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from app.shedding import FULL_LAG_S, PROBE_EVERY_S, PROBES, RETRY_WITHIN_S, Shedding
from tests.fakes.clock import FakeClock

PRIORITIES = ("low", "normal", "high")


@dataclass
class World:
    """A gateway as full as it is told to be."""

    places: float = 0.0
    memory: float = 0.0
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.shedding = Shedding(lambda: self.places, lambda: self.memory)
        self.shedding.probe(self.clock, self.clock.call_later)

    def turned_away(self) -> tuple[str, ...]:
        return tuple(priority for priority in PRIORITIES if self.shedding.sheds(priority))

    def late_by(self, seconds: float, times: int = PROBES) -> None:
        """Let the loop be late so often."""
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


@pytest.mark.parametrize(
    ("lag", "turned_away"),
    [(0.5, ()), (0.7, ("low",)), (0.9, ("low", "normal")), (1.1, PRIORITIES)],
)
def test_a_loop_that_stays_late_counts_like_places(lag: float, turned_away: tuple[str, ...]) -> None:
    world = World()
    world.late_by(lag * FULL_LAG_S)
    assert world.turned_away() == turned_away


def test_one_long_step_turns_nobody_away() -> None:
    world = World()
    world.late_by(0)
    world.late_by(10 * FULL_LAG_S, times=PROBES - 1)
    assert world.turned_away() == ()


def test_a_loop_that_is_in_time_again_takes_everybody_at_once() -> None:
    world = World()
    world.late_by(10 * FULL_LAG_S)
    assert world.turned_away() == PRIORITIES
    world.late_by(0, times=1)
    assert world.turned_away() == ()


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
    Shedding(lambda: 0.0, memory).probe(clock, clock.call_later)
    clock.advance(10.1)
    assert 8 <= looks <= 12


def test_callers_who_were_turned_away_together_come_back_over_some_seconds() -> None:
    shedding = Shedding(lambda: 1.0, lambda: 0.0)
    refusals = [shedding.refusal() for _ in range(200)]
    assert {refusal.retry_after_s for refusal in refusals} == set(range(1, RETRY_WITHIN_S + 1))
    assert {(refusal.status, refusal.code) for refusal in refusals} == {(503, "overloaded")}


def test_the_readings_are_told_by_name() -> None:
    world = World(places=0.25, memory=0.9)
    world.late_by(0.5 * FULL_LAG_S)
    assert world.shedding.readings() == pytest.approx({"places": 0.25, "lag": 0.5, "memory": 0.8})


async def test_in_a_real_loop_it_looks_until_the_end() -> None:
    looks = 0

    def memory() -> float:
        nonlocal looks
        looks += 1
        return 1.0

    with Shedding(lambda: 0.0, memory) as shedding:
        assert not shedding.sheds("high")
        while not looks:
            await asyncio.sleep(PROBE_EVERY_S)
        assert shedding.sheds("high")
