"""A worker dies or hangs, and returns: nobody waits for it meanwhile, and it is used again soon after.

The gateway's clock runs five times as fast.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.domain.models import Backend, Catalog
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.http.deadline import Timeouts
from app.upstream.poller import POLL_EVERY_S, Poller
from app.upstream.prober import LOOK_EVERY_S, PROBE_WITHIN_S, Prober
from tests.fakes.backend import Script
from tests.fakes.gateway import Bench, bench, client_of
from tests.fakes.moody import Moody
from tests.fakes.open_loop import Heard, ask, ask_at
from tests.fakes.process import until
from tests.fakes.world import catalog, model, request

pytestmark = pytest.mark.timing

SPEED = 5.0
USED_AGAIN_WITHIN_S = 15.0
# A busy machine may stand still for half a second; that is not to look like a worker that hangs.
TIMEOUTS = Timeouts(connect_s=2.0, pool_wait_s=2.0, first_byte_s=1.0, idle_s=5.0, total_s=60.0)


@asynccontextmanager
async def behind(small: Moody, large: Moody, kind: str = "vllm") -> AsyncIterator[Bench]:
    """A gateway that prefers `small`, with all that watches over workers."""
    models = (model("small", "small"), model("large", "large"))
    # With a slash at its end, a URL is the same.
    the_catalog = catalog(*models, urls={"small": (f"{small.url}/",), "large": (large.url,)})
    the_catalog = Catalog(models, tuple(_of_kind(one, kind) for one in the_catalog.backends))
    async with client_of(the_catalog, TIMEOUTS) as client:
        world = bench(the_catalog, client, TIMEOUTS, clock=lambda: time.monotonic() * SPEED)
        poller = Poller(client, world.replicas, POLL_EVERY_S / SPEED)
        prober = Prober(client, world.replicas, the_catalog, LOOK_EVERY_S / SPEED, PROBE_WITHIN_S / SPEED)
        await poller.start()
        await prober.start()
        yield world
        await prober.stop()
        await poller.stop()


def _of_kind(backend: Backend, kind: str) -> Backend:
    return replace(backend, kind=kind)  # type: ignore[arg-type]


async def until_available(world: Bench, value: bool = True) -> float:
    """Seconds of the gateway's clock until `small` is available, or is not."""
    began_at = time.monotonic()
    await until(lambda: bool(world.replicas.fleet().available[0]), value, 20.0)
    return (time.monotonic() - began_at) * SPEED


async def test_a_worker_that_is_killed_and_started_again_is_used_again() -> None:
    async with Moody() as small, Moody() as large, behind(small, large) as world:
        await small.stop()
        await until_available(world, False)
        heard = await ask_at(50, 0.5, world.gateway)
        assert (small.asked, large.asked) == (0, heard.requests)
        await small.start()
        returned_s = await until_available(world)
        heard = await ask_at(50, 0.2, world.gateway, heard=heard)
    heard.say(used_again_after_s=round(returned_s, 1))
    assert returned_s <= USED_AGAIN_WITHIN_S
    assert heard.outcomes == {"ok": heard.requests}
    assert small.asked > 0


async def test_a_worker_whose_engine_hangs_while_its_pages_answer_gets_probes_and_no_callers() -> None:
    async with Moody(Script(hang=True)) as small, Moody() as large, behind(small, large) as world:
        waited = await ask_at(50, 0.2, world.gateway)
        await until_available(world, False)
        asked = small.asked
        heard = await ask_at(50, 2.5, world.gateway)
        probes = small.calls - small.asked
        assert (small.asked, large.asked) == (asked, waited.requests + heard.requests)
        small.script = Script()
        returned_s = await until_available(world)
        heard = await ask_at(50, 0.2, world.gateway, heard=heard)
    heard.say(used_again_after_s=round(returned_s, 1), probes=probes)
    assert probes > 0
    assert returned_s <= USED_AGAIN_WITHIN_S
    assert heard.outcomes == {"ok": heard.requests}
    assert small.asked > asked


async def test_a_service_that_is_paid_for_is_probed_by_a_caller_and_by_nothing_else() -> None:
    async with Moody(Script(status=500)) as small, Moody() as large, behind(small, large, "openai") as world:
        began_at, heard = time.monotonic(), Heard()
        # One after the other: those that are on their way when the fifth fails are no probes.
        for _ in range(FAILURES_TO_EJECT):
            await ask(world.gateway, request(max_tokens=1), heard)
        await ask_at(50, 3.0, world.gateway, heard=heard)
        asked, seconds = small.asked, (time.monotonic() - began_at) * SPEED
        small.script = Script()
        await until_available(world)
        await ask(world.gateway, request(max_tokens=1), heard)
    heard.say(asked=asked)
    assert heard.outcomes == {"ok": heard.requests}
    assert small.calls == small.asked, "no probe of ours"
    assert 5 < asked <= 6 + seconds / 10
    assert world.replicas.all[0].ejected_until is None
