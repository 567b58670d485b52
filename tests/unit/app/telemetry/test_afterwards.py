"""What is told of requests when they are over: soon, in order, and of all of them."""

from __future__ import annotations

import pytest

from app.telemetry.afterwards import WITHIN_S, Afterwards
from tests.fakes.clock import FakeClock


class World:
    """Afterwards, with what was done and what failed."""

    def __init__(self, most: int) -> None:
        self.done: list[int] = []
        self.failures: list[str] = []
        self.clock = FakeClock()
        self.afterwards = Afterwards(lambda error: self.failures.append(str(error)), most, self.clock.call_later)

    def do(self, *numbers: int) -> None:
        for number in numbers:
            self.afterwards.do(lambda number=number: self._work(number))  # type: ignore[misc]

    def _work(self, number: int) -> None:
        if number < 0:
            raise ValueError(number)
        self.done.append(number)


async def test_enough_of_it_is_done_at_once_and_in_order() -> None:
    world = World(most=3)
    world.do(1, 2)
    assert world.done == []
    world.do(3, 4)
    assert world.done == [1, 2, 3]


async def test_a_little_of_it_is_done_after_a_while() -> None:
    world = World(most=100)
    world.do(1, 2)
    world.clock.advance(WITHIN_S / 2)
    assert world.done == []
    world.clock.advance(WITHIN_S / 2)
    assert world.done == [1, 2]
    world.do(3)
    world.clock.advance(WITHIN_S)
    assert world.done == [1, 2, 3]


async def test_who_wants_to_see_it_has_it_finished() -> None:
    world = World(most=100)
    world.do(1)
    world.afterwards.finish()
    world.afterwards.finish()
    assert world.done == [1]


@pytest.mark.parametrize("most", [1, 3])
async def test_what_raises_is_heard_of_and_keeps_nothing_else_from_being_done(most: int) -> None:
    world = World(most)
    world.do(1, -2, 3)
    assert (world.done, world.failures) == ([1, 3], ["-2"])


async def test_work_that_makes_more_work_is_not_lost() -> None:
    world = World(most=1)
    world.afterwards.do(lambda: world.do(5))
    assert world.done == [5]
