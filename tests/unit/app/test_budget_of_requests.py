"""What a gateway holds of a budget for a request comes back however the request ends, less what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import BudgetSpent, GatewayError, UpstreamBroken
from app.store.accounts import Account
from app.store.keys import Budget
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import Bench, bench
from tests.fakes.upstream import FakeExchange, FakeUpstream
from tests.fakes.world import FakeKey, catalog, model, request

BUDGET = Budget(0.01)
KEY = FakeKey(budget=BUDGET)
ASKED = request(max_tokens=100, body={"max_tokens": 100})
COST_USD = (3 * 1.0 + 2 * 2.0) / 1e6
"""Of the fake's `hello`."""


def _world(upstream: FakeUpstream) -> Bench:
    return bench(catalog(model("small"), model("large")), upstream, clock=FakeClock())


def _account(world: Bench, budget: Budget = BUDGET) -> Account:
    return world.budgets.account(KEY.id, budget)


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


async def _cancelled(world: Bench) -> None:
    task = asyncio.create_task(world.gateway.complete(ASKED, KEY))
    while not _account(world).holds:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


BROKEN = UpstreamBroken("no")


@pytest.mark.parametrize(
    ("upstream", "end", "cost_usd"),
    [
        (FakeUpstream(small=b"hello"), _answered, COST_USD),
        (FakeUpstream(small=BROKEN, large=b"hello"), _answered, COST_USD),
        (FakeUpstream(small=BROKEN, large=BROKEN), _failed, 0.0),
        (FakeUpstream(small=b"hello"), _left_unread, None),
        (FakeUpstream(small=FakeExchange(hangs=True)), _cancelled, 0.0),
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


@pytest.mark.parametrize(("hard", "is_known"), [(True, True), (False, False)])
async def test_only_a_hard_budget_reserves(hard: bool, is_known: bool) -> None:
    """What is reserved is what a request has cost whose end nobody told."""
    world = _world(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(ASKED, FakeKey(budget=Budget(0.01, hard=hard)))
    entry = world.admission.ledger.journal.find(served.decision.decision_id, KEY.id)
    assert entry is not None
    assert (entry.reserved_usd is not None) is is_known
    served.answer.close()


async def test_a_request_that_cannot_be_paid_for_reaches_no_backend() -> None:
    upstream = FakeUpstream(small=b"hello")
    world = _world(upstream)
    with pytest.raises(BudgetSpent):
        await world.gateway.complete(ASKED, FakeKey(budget=Budget(1e-6)))
    assert upstream.asked == []
    assert [one["outcome"] for one in world.completed] == ["insufficient_quota"]
    assert world.in_flight == (0, 0, 0)


async def test_an_explanation_costs_nothing() -> None:
    world = _world(FakeUpstream(small=b"hello"))
    await world.gateway.explain(ASKED, FakeKey(budget=Budget(0.0)))


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
    assert told == [None, f"{COST_USD / 2:.6f}"]
    assert [one["over_budget_usd"] for one in world.completed] == [
        pytest.approx(COST_USD * n, abs=1e-6) for n in (0.5, 1.5)
    ]
