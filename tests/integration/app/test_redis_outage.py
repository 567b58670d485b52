"""R13: whatever happens to Redis, callers are served, nothing is overspent, and nothing that was used is forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.store.money.budgets import TRUST_S
from tests.fakes.outage import COST_USD, FAULTS, HARD_RATE, POOR_USD, RATE, Answer, World, outages, overhead_s
from tests.fakes.process import until

pytestmark = [pytest.mark.slow, pytest.mark.timing, pytest.mark.timeout(900)]

# Within so many seconds five exchanges have failed; from then on Redis is left alone.
FAILING_S = 2.0
# Until a purse trusts its slices no longer.
CLOSED_AFTER_S = TRUST_S + 1.0
RECOVERS_WITHIN_S = 10.0


async def test_callers_are_served_through_every_outage(tmp_path: Path, full_size: bool) -> None:
    faults = list(FAULTS) if full_size else list(FAULTS)[:2]
    lasts_s = 60.0 if full_size else CLOSED_AFTER_S + 0.5
    async with outages(tmp_path) as world:
        calls = [asyncio.create_task(world.call(key, rate)) for key, rate in CALLERS.items()]
        try:
            figures = [await through(world, name, lasts_s) for name in faults]
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls)
        await world.gateway.until_idle()
        lost = await not_recorded(world)
        records, completed = world.redis.do("XLEN", "thalamus:journal"), len(world.gateway.completed)
        spent = {key: world.spent_usd(key) for key in ("rich", "poor")}
    billed = {key: sum(one.status == 200 for one in world.of(key)) * COST_USD for key in spent}
    normal = Counter(str(one.code or one.status) for one in world.of("normal"))
    print(json.dumps({"row": "R13", "normal": normal, "lost": lost, "spent_usd": spent, "faults": figures}))
    assert normal["200"] >= 0.999 * normal.total()
    assert lost == 0
    for fault in figures:
        assert fault["added_p99_ms_at_first"] <= 60 + fault["lag_ms"], fault
        assert fault["added_p99_ms"] <= 2 + fault["lag_ms"], fault
        assert fault["added_p50_ms"] <= 2 + (0 if full_size else fault["lag_ms"]), fault
        assert fault["hard"].keys() == {"budget_unavailable"}, fault
        assert fault["recovered_s"] <= RECOVERS_WITHIN_S, fault
    assert spent == pytest.approx(billed)
    assert 0 < spent["poor"] <= POOR_USD
    assert records == completed, "each that was admitted once"


CALLERS = {"normal": RATE, "rich": HARD_RATE, "poor": HARD_RATE}


async def through(world: World, name: str, lasts_s: float) -> dict[str, Any]:
    """One outage, from a healthy moment to the next."""
    began_at = time.monotonic()
    await asyncio.sleep(max(2.0, lasts_s / 10))
    fails_at = time.monotonic()
    with FAULTS[name](world):
        await asyncio.sleep(lasts_s)
    ends_at = time.monotonic()
    recovered_s = await world.until_whole(2 * RECOVERS_WITHIN_S)
    before, first, then = (
        world.of("normal", since, till)
        for since, till in ((began_at, fails_at), (fails_at, fails_at + FAILING_S), (fails_at + FAILING_S, ends_at))
    )

    def added_ms(answers: list[Answer], share: float) -> float:
        return round(1e3 * (overhead_s(answers, share) - overhead_s(before, share)), 2)

    return {
        "fault": name,
        "usual_p99_ms": round(1e3 * overhead_s(before, 0.99), 2),
        "added_p99_ms_at_first": added_ms(first, 0.99),
        "added_p99_ms": added_ms(then, 0.99),
        "added_p50_ms": added_ms(then, 0.5),
        "lag_ms": round(1e3 * world.lag_s(began_at, ends_at), 2),
        "hard": Counter(str(one.code) for one in world.of("rich", fails_at + CLOSED_AFTER_S, ends_at)),
        "recovered_s": round(recovered_s, 2),
    }


async def not_recorded(world: World) -> int:
    """Of the answers that cost something, once the journal has had the time to tell Redis of them."""
    decisions = list({one.headers["x-thalamus-decision-id"] for one in world.answers if one.status == 200})

    def missing() -> int:
        return len(decisions) - world.recorded(decisions)

    with suppress(TimeoutError):
        await until(missing, 0, RECOVERS_WITHIN_S)
    return missing()
