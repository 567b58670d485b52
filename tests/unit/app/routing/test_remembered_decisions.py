"""What remembered decisions over a large catalogue take."""

from __future__ import annotations

import asyncio
import tracemalloc

from app.store.journal.journal import REMEMBERED_BYTES, Entry, RecentDecisions
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request


def test_two_thousand_decisions_over_ten_thousand_models_take_no_more_than_they_are_counted_for() -> None:
    """Each with a new picture of the fleet, as when they are 50 ms apart."""
    world, journal = world_of(*[llm(f"m{number}") for number in range(10_000)]), RecentDecisions()
    one = fleet_of(*world.models)

    async def decide(times: int) -> None:
        for _ in range(times):
            fleet = type(one)(one.available, one.wait_s, one.s_per_output_token)
            asked = request(model="m7")
            journal.decided(Entry("req", "mine", await world.router.route(asked, fleet)))

    asyncio.run(decide(1))
    tracemalloc.start()
    asyncio.run(decide(2_000))
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 1.2 * REMEMBERED_BYTES
