"""A router that sends everything to the dearest model, as one that was fooled would: a key's budget still ends it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.caller import hear, session_to
from tests.fakes.deployment import FIRST_KEYS, deployed

BUDGET_USD = 0.01
REQUESTS = 250


async def test_spend_is_bounded_whatever_the_router_says(tmp_path: Path) -> None:
    keys = [{**FIRST_KEYS[0], "budget": {"usd": BUDGET_USD}}]
    captured = {"default": {"order": ["large", "small"]}}
    outcomes: dict[str, int] = {}
    spent_usd = 0.0
    async with (
        deployed(tmp_path, "small", "large", keys=keys, profiles=captured) as running,
        session_to(running.url) as session,
    ):
        for _ in range(REQUESTS):
            heard = await hear(session, routing={"priority": "high"})
            spent_usd += float(heard.headers.get("x-thalamus-cost-usd", 0))
            who = heard.headers.get("x-thalamus-model", heard.code or "")
            outcomes[who] = outcomes.get(who, 0) + 1
    print(json.dumps({"property": "S9 spend", "budget_usd": BUDGET_USD, "spent_usd": round(spent_usd, 6), **outcomes}))
    assert outcomes["large"] > 10
    assert outcomes["insufficient_quota"] > 10
    assert 0.5 * BUDGET_USD < spent_usd <= BUDGET_USD
