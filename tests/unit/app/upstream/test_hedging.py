"""A second attempt beside a late one: when it is made, who answers, and what becomes of the other."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.decision import Candidate
from app.errors import UpstreamBroken, UpstreamError, UpstreamRejected, UpstreamTimeout
from app.telemetry.metrics import Metrics
from app.upstream.answers.answer import Answer, Form
from app.upstream.hedging import MIN_REMEMBERED, SAVED_AT_MOST, SHARE, Hedging, Kind
from app.upstream.retries import RetryBudget
from app.upstream.served import Served
from tests.fakes.clock import FakeClock
from tests.fakes.world import decision

KIND: Kind = ("small", True)
DECISION = decision("small")
CANDIDATE: Candidate = DECISION.chosen


def served(replica: str) -> Served:
    return Served(DECISION, CANDIDATE, 1, Answer(Form("small", stream=True)), replica, 0.0)


class Attempt:
    """Answers, or fails, when told; remembers what became of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun = False
        self.cancelled = False
        self._told: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

    def answer(self) -> None:
        self._told.set_result(None)

    def fail(self, error: UpstreamError) -> None:
        self._told.set_result(error)

    async def __call__(self) -> Served:
        self.begun = True
        try:
            error = await self._told
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if error:
            raise error
        return served(self.name)


class World:
    """A model whose answers begin at once, so the next one is late after no time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics(["small"])
        self.retries = RetryBudget(self.clock)
        self.hedging = Hedging(self.retries, self.clock, self.metrics)
        self.first, self.second = Attempt("first"), Attempt("second")

    async def learn(self, requests: int = int(SAVED_AT_MOST / SHARE)) -> None:
        for _ in range(requests):
            attempt = Attempt("quick")
            attempt.answer()
            await self.hedging.race(KIND, attempt(), lambda: None)

    def race(self) -> asyncio.Task[Served]:
        return asyncio.create_task(self.hedging.race(KIND, self.first(), self.second))

    def hedges(self, outcome: str) -> float:
        labels = {"model": "small", "outcome": outcome}
        return self.metrics.registry.get_sample_value("thalamus_hedges_total", labels) or 0.0


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.learn()
    return world


async def test_nobody_is_asked_twice_before_it_is_known_what_is_late() -> None:
    world = World()
    await world.learn(MIN_REMEMBERED - 1)
    race = world.race()
    await turns()
    assert not world.second.begun
    world.first.answer()
    assert (await race).replica == "first"


async def test_the_second_answers_and_the_first_is_cut(world: World) -> None:
    race = world.race()
    await turns()
    assert world.second.begun
    world.second.answer()
    assert (await race).replica == "second"
    await turns()
    assert world.first.cancelled
    assert (world.hedges("won"), world.hedges("lost")) == (1, 0)


async def test_the_first_answers_after_all_and_the_second_is_cut(world: World) -> None:
    race = world.race()
    await turns()
    world.first.answer()
    assert (await race).replica == "first"
    await turns()
    assert world.second.cancelled
    assert (world.hedges("won"), world.hedges("lost")) == (0, 1)


async def test_when_both_answer_one_is_kept_and_the_other_gives_back_what_it_holds(world: World) -> None:
    closed: list[str] = []

    async def told(attempt: Attempt) -> Served:
        found = await attempt()
        found.answer.on_close(lambda _: closed.append(found.replica))
        return found

    race = asyncio.create_task(world.hedging.race(KIND, told(world.first), lambda: told(world.second)))
    await turns()
    world.first.answer()
    world.second.answer()
    kept = await race
    await turns()
    assert sorted([*closed, kept.replica]) == ["first", "second"]


async def test_a_failure_of_the_first_waits_for_the_second(world: World) -> None:
    race = world.race()
    await turns()
    world.first.fail(UpstreamBroken("no"))
    await turns()
    assert not race.done()
    world.second.answer()
    assert (await race).replica == "second"


async def test_the_last_failure_is_told_when_both_fail(world: World) -> None:
    race = world.race()
    await turns()
    world.second.fail(UpstreamBroken("no"))
    await turns()
    world.first.fail(UpstreamTimeout("late"))
    with pytest.raises(UpstreamTimeout):
        await race


@pytest.mark.parametrize("failure", [UpstreamBroken("no"), UpstreamRejected("bad", status=400)])
async def test_an_answer_counts_even_where_the_other_attempt_fails_in_the_same_moment(failure: UpstreamError) -> None:
    for _ in range(20):  # which of the two is looked at first is a matter of chance
        world = World()
        await world.learn()
        race = world.race()
        await turns()
        world.first.fail(failure)
        world.second.answer()
        assert (await race).replica == "second"


async def test_a_refusal_of_the_request_ends_both(world: World) -> None:
    race = world.race()
    await turns()
    world.first.fail(UpstreamRejected("bad", status=400))
    with pytest.raises(UpstreamRejected):
        await race
    await turns()
    assert world.second.cancelled


async def test_a_caller_who_leaves_cuts_both(world: World) -> None:
    race = world.race()
    await turns()
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    await turns()
    assert world.first.cancelled
    assert world.second.cancelled


async def test_no_second_attempt_is_made_once_half_of_the_retry_budget_is_gone(world: World) -> None:
    while not world.retries.is_low:
        world.retries.take()
    race = world.race()
    await turns()
    assert not world.second.begun
    world.first.answer()
    await race


async def test_second_attempts_are_at_most_a_twentieth_of_all_calls(world: World) -> None:
    requests, hedged = 1_000, 0
    for _ in range(requests):
        world.first, world.second = Attempt("first"), Attempt("second")
        race = world.race()
        await turns()
        hedged += world.second.begun
        world.first.answer()
        await race
    assert 0.04 * requests < hedged <= SHARE * requests + SAVED_AT_MOST
