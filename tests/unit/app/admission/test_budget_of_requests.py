"""What a gateway holds of a budget for a request comes back however the request ends, less what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from app.domain.decision import Candidate, Decision, Estimate, Fleet
from app.domain.models import TokenPrice
from app.domain.request import Request
from app.domain.sessions import Session
from app.errors import BudgetSpent, Draining, GatewayError, UpstreamBroken, UpstreamDisconnected, UpstreamTimeout
from app.routing.tally import NOBODY, Tally
from app.store.keys.key import Budget
from app.store.money.accounts import Account, Hold, window_of
from app.upstream.client import Message
from app.upstream.http.deadline import OutOfTime
from app.upstream.served import Served
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import Bench, bench
from tests.fakes.upstream import Does, FakeExchange, FakeUpstream, Piece, chunk, event
from tests.fakes.world import FakeKey, catalog, model, request

SMALL = model("small")
BUDGET = Budget(0.01)
KEY = FakeKey(budget=BUDGET)
ASKED = request(max_tokens=100, body={"max_tokens": 100})
COST_USD = (3 * 1.0 + 2 * 2.0) / 1e6
"""Of the fake's `hello`."""
PROMPT_USD = 12 * 1.0 / 1e6
LEFT_USD = PROMPT_USD + 50 * 2.0 / 1e6
"""Of half a second's writing."""


def _world(upstream: FakeUpstream) -> Bench:
    return bench(catalog(model("small"), model("large")), upstream, clock=FakeClock())


def _clock(world: Bench) -> FakeClock:
    clock = world.admission.clock
    assert isinstance(clock, FakeClock)
    return clock


def _account(world: Bench, budget: Budget = BUDGET) -> Account:
    return world.budgets.account(KEY.id, budget)


class SlowUpstream(FakeUpstream):
    """Takes a second for whatever it does."""

    def __init__(self, clock: FakeClock, **answers: Does) -> None:
        super().__init__(**answers)
        self._clock = clock

    async def send(self, backend: str, url: str, message: Message) -> FakeExchange:
        self._clock.advance(1.0)
        return await super().send(backend, url, message)


@dataclass
class ExpectantRouter:
    """Chooses the small model, and expects this of it."""

    estimate: Estimate

    async def route(
        self, request: Request, fleet: Fleet, session: Session | None = None, tally: Tally = NOBODY
    ) -> Decision:
        return Decision("dec-1", (Candidate(SMALL, None, lambda: self.estimate),), "best", lambda: "as told")


async def _answered(world: Bench) -> None:
    served = await world.gateway.complete(ASKED, KEY)
    assert _account(world).reserved_usd > COST_USD
    assert [piece async for piece in served.answer]
    await served.answer.aclose()


async def _left_unread(world: Bench) -> None:
    served = await world.gateway.complete(ASKED, KEY)
    served.answer.close()


async def _failed(world: Bench) -> None:
    with pytest.raises(GatewayError):
        await world.gateway.complete(ASKED, KEY)


async def _half_a_second_old(world: Bench, asked: Request = ASKED, key: FakeKey = KEY) -> asyncio.Task[Served]:
    """A request that some backend works on, or does nothing."""
    task = asyncio.create_task(world.gateway.complete(asked, key))
    while not sum(replica.in_flight for replica in world.replicas.all):
        await asyncio.sleep(0)
    _clock(world).advance(0.512)
    return task


async def _left(world: Bench, asked: Request = ASKED, key: FakeKey = KEY) -> None:
    task = await _half_a_second_old(world, asked, key)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _left_a_stream(world: Bench) -> None:
    await _left(world, replace(ASKED, stream=True))


async def _out_of_time(world: Bench) -> None:
    task = await _half_a_second_old(world, replace(ASKED, deadline_s=0.06))
    with pytest.raises(OutOfTime):
        await task


async def _cut(world: Bench) -> None:
    task = await _half_a_second_old(world)
    world.admission.cut()
    with pytest.raises(Draining):
        await task


BROKEN = UpstreamBroken("no")


@pytest.mark.parametrize(
    ("upstream", "end", "cost_usd"),
    [
        (FakeUpstream(small=b"hello"), _answered, COST_USD),
        (FakeUpstream(small=BROKEN, large=b"hello"), _answered, COST_USD),
        (FakeUpstream(small=BROKEN, large=BROKEN), _failed, 0.0),
        (FakeUpstream(small=b"hello"), _left_unread, None),
        (FakeUpstream(small=FakeExchange(hangs=True)), _left, LEFT_USD),
        (FakeUpstream(small=BROKEN, large=FakeExchange(hangs=True)), _left, LEFT_USD),
        (FakeUpstream(small=FakeExchange(hangs=True)), _left_a_stream, PROMPT_USD),
        (FakeUpstream(small=FakeExchange(hangs=True)), _out_of_time, LEFT_USD),
        (FakeUpstream(small=FakeExchange(hangs=True)), _cut, 0.0),
        (FakeUpstream(small=UpstreamTimeout("no"), large=UpstreamTimeout("no")), _failed, 0.0),
    ],
)
async def test_what_is_held_comes_back_less_what_it_cost(
    upstream: FakeUpstream, end: Callable[[Bench], Awaitable[None]], cost_usd: float | None
) -> None:
    world = _world(upstream)
    await end(world)
    account = _account(world)
    assert (account.reserved_usd, account.holds) == (0.0, 0)
    assert account.settled_usd == pytest.approx(sum(one.get("cost_usd", 0.0) for one in world.completed))
    if cost_usd is not None:
        assert account.settled_usd == pytest.approx(cost_usd)
    assert world.in_flight == (0, 0, 0)


def _reporting(written: int, *rest: Piece, hangs: bool = False) -> FakeExchange:
    """A backend that says with its first chunk what was read, and written by then."""
    usage = {"prompt_tokens": 7, "completion_tokens": written}
    return FakeExchange([event({**chunk("a"), "usage": usage}), event(chunk("b")), *rest], hangs=hangs)


@pytest.mark.parametrize(
    ("exchange", "outcome", "written", "counted"),
    [
        (_reporting(0, UpstreamDisconnected("cut")), "upstream_disconnected", 2, True),
        (_reporting(1, hangs=True), "cancelled", 2, True),
        (_reporting(5, hangs=True), "cancelled", 5, False),
        (_reporting(0, event(chunk("", "stop")), event(b"[DONE]")), "ok", 0, False),
    ],
    ids=["is cut", "is left", "is left, and was told of more", "is whole"],
)
async def test_an_answer_that_is_not_complete_costs_what_was_passed_on_at_least(
    exchange: FakeExchange, outcome: str, written: int, counted: bool
) -> None:
    world = _world(FakeUpstream(small=exchange))
    served = await world.gateway.complete(replace(ASKED, stream=True), KEY)
    for _ in range(2):
        assert await anext(served.answer)
    if outcome != "cancelled":
        assert [piece async for piece in served.answer]
    served.answer.close()
    (line,) = world.completed
    assert (line["outcome"], line["output_tokens"], line["usage_counted"]) == (outcome, written, counted)
    assert _account(world).settled_usd == pytest.approx((7 * 1.0 + written * 2.0) / 1e6)


async def test_an_attempt_that_failed_is_not_paid_for_when_time_is_over_after_it() -> None:
    clock = FakeClock()
    world = bench(catalog(SMALL, model("large")), SlowUpstream(clock, small=BROKEN, large=b"hello"), clock=clock)
    with pytest.raises(OutOfTime):
        await world.gateway.complete(replace(ASKED, deadline_s=1.0), KEY)
    assert (world.completed[0]["attempts"], _account(world).settled_usd) == (1, 0.0)


async def test_what_nobody_waited_for_is_told_of_whom_was_asked_for_it() -> None:
    world = _world(FakeUpstream(small=BROKEN, large=FakeExchange(hangs=True)))
    await _left(world)
    (line,) = world.completed
    told = {name: line[name] for name in ("model", "reason", "input_tokens", "output_tokens", "usage_counted")}
    assert told == {
        "model": "large",
        "reason": "fallback",
        "input_tokens": 12,
        "output_tokens": 50,
        "usage_counted": True,
    }
    assert world.sample("thalamus_tokens_total", model="large", direction="output") == 50
    assert world.sample("thalamus_cost_usd_total", model="large", profile="default") == pytest.approx(LEFT_USD)


async def test_what_nobody_waited_for_costs_no_more_than_is_held() -> None:
    estimate = Estimate(None, output_tokens=1e6, cost_usd=None, ttft_s=0.0, latency_s=0.5)
    router = ExpectantRouter(estimate)
    world = bench(catalog(SMALL), FakeUpstream(small=FakeExchange(hangs=True)), clock=FakeClock(), router=router)
    rich = Budget(1000.0)
    await _left(world, request(), FakeKey(budget=rich))
    context_usd = 4096 * 2.0 / 1e6
    assert context_usd < _account(world, rich).settled_usd < 1.1 * context_usd


@pytest.mark.parametrize(("hard", "is_known"), [(True, True), (False, False)])
async def test_only_a_hard_budget_reserves(hard: bool, is_known: bool) -> None:
    """What is reserved is what a request has cost whose end nobody told."""
    world = _world(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(ASKED, FakeKey(budget=Budget(0.01, hard=hard)))
    entry = world.admission.ledger.journal.find(served.decision.decision_id, KEY.id)
    assert entry is not None
    assert (entry.reserved_usd is not None) is is_known
    assert entry.held_in == (_account(world).period if hard else None)
    served.answer.close()


async def test_a_request_that_cannot_be_paid_for_reaches_no_backend() -> None:
    upstream = FakeUpstream(small=b"hello")
    world = _world(upstream)
    with pytest.raises(BudgetSpent):
        await world.gateway.complete(ASKED, FakeKey(budget=Budget(1e-6)))
    assert upstream.asked == []
    assert [one["outcome"] for one in world.completed] == ["insufficient_quota"]
    assert world.in_flight == (0, 0, 0)


async def test_a_key_without_money_may_ask_for_an_explanation() -> None:
    world = _world(FakeUpstream(small=b"hello"))
    record = await world.gateway.explain(ASKED, FakeKey(budget=Budget(0.0)))
    assert record["chosen"] == "small"


async def test_an_overdrawn_soft_budget_is_told_with_each_answer() -> None:
    soft = Budget(COST_USD / 2, hard=False)
    world, key = _world(FakeUpstream(small=b"hello")), FakeKey(budget=soft)
    told = []
    for _ in range(2):
        served = await world.gateway.complete(ASKED, key)
        told.append(served.headers().get("x-thalamus-over-budget-usd"))
        served.answer.complete = True
        assert [piece async for piece in served.answer]
        await served.answer.aclose()
    assert told == [None, "0.000004"], "3.5 millionths, rounded up"
    assert [one["over_budget_usd"] for one in world.completed] == [
        pytest.approx(COST_USD * n, abs=1e-6) for n in (0.5, 1.5)
    ]


@pytest.mark.parametrize(
    ("left_usd", "over_usd"),
    [(0.0, 0.0), (1.0, 0.0), (-1e-13, 0.0), (-4e-9, 1e-6), (-1e-6, 1e-6), (-1.2e-6, 2e-6), (-0.3, 0.3)],
)
def test_what_is_overdrawn_is_never_told_as_nothing(left_usd: float, over_usd: float) -> None:
    account = Account("key", Budget(1.0, hard=False), window_of(Budget(1.0), 0.0))
    account.known_spent_usd = 1.0 - left_usd
    assert Hold(account, 0.0).over_usd == over_usd


DEAR = replace(model("large"), price=TokenPrice(1.0, 200.0))
"""A thousand tokens of it cost more than the budget."""


def _torn() -> Bench:
    """A gateway that would choose the dear model."""
    return bench(catalog(DEAR, model("small")), FakeUpstream(small=b"hello"), clock=FakeClock())


async def test_what_a_budget_leaves_out_is_counted_and_the_decision_is_for_what_is_left() -> None:
    world = _torn()
    served = await world.gateway.complete(ASKED, KEY)
    await served.answer.aclose()
    assert (served.candidate.model.name, served.reason) == ("small", "best")
    assert world.sample("thalamus_exclusions_total", constraint="budget") == 1
    assert world.sample("thalamus_decisions_total", model="small", profile="default", reason="best") == 1
    assert world.sample("thalamus_decisions_total", model="large", profile="default", reason="best") == 0


async def test_an_explanation_names_who_would_answer_and_holds_nothing() -> None:
    world = _torn()
    record = await world.gateway.explain(ASKED, KEY)
    assert record["chosen"] == "small"
    assert (_account(world).reserved_usd, _account(world).settled_usd) == (0.0, 0.0)
    assert [line["outcome"] for line in world.completed] == ["ok"]


async def test_what_is_left_out_though_the_budget_pays_for_it_is_not_counted_as_excluded() -> None:
    rich, far = FakeKey(budget=Budget(1.0)), replace(model("far"), price=TokenPrice(1.0, 500.0))
    world = bench(catalog(model("small"), model("b"), model("c"), far), FakeUpstream(small=b"hello"), clock=FakeClock())
    served = await world.gateway.complete(ASKED, rich)
    await served.answer.aclose()
    assert [each.model.name for each in served.decision.candidates] == ["small", "b", "c"]
    assert world.sample("thalamus_exclusions_total", constraint="budget") == 0
