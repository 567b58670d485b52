"""Asking workers that are out for one token."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace

import pytest

from app.domain.models import Card
from app.errors import UpstreamBusy, UpstreamRejected, UpstreamUnreachable
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.replica import EJECTED_FOR_S
from app.upstream.fleet.replicas import Replicas
from app.upstream.prober import Prober
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import Does, FakeExchange, FakeUpstream
from tests.fakes.world import catalog, model


class World:
    """One worker that is out, and what it does when it is asked for a token."""

    def __init__(self, does: Does, small: object = None) -> None:
        self.clock = FakeClock()
        self.upstream = FakeUpstream(**{"org/small": does})
        self.catalog = catalog(model("small", "pool", "org/small"), model("second", "pool"))
        self.replicas = Replicas(self.catalog, self.clock, Telemetry(log=EventLog(io.StringIO())))
        (self.replica,) = self.replicas.all
        for _ in range(FAILURES_TO_EJECT):
            self.replicas.failed(self.replica, UpstreamUnreachable("no"))
        self.clock.advance(EJECTED_FOR_S)

    async def probe(self) -> None:
        prober = Prober(self.upstream, self.replicas, self.catalog, every_s=0.0)
        await prober.start()
        async with asyncio.timeout(5):
            while not self.upstream.messages or self.replica.probing:
                await asyncio.sleep(0)
        await prober.stop()


async def test_a_worker_that_writes_a_token_is_back() -> None:
    world = World(b"x")
    await world.probe()
    assert world.replica.ejected_until is None
    (message,) = world.upstream.messages
    assert (message.path, message.stream) == ("/chat/completions", False)
    assert json.loads(message.body) == {
        "messages": [{"role": "user", "content": "1"}],
        "model": "org/small",
        "max_tokens": 1,
    }
    assert world.replica.in_flight == 0


@pytest.mark.parametrize(
    "failure",
    [
        UpstreamUnreachable("no"),
        UpstreamBusy("full"),
        FakeExchange(status=500),
        FakeExchange([b'{"error": {"message": "EngineCore encountered an issue."}}']),
        FakeExchange([b"<html>"]),
    ],
    ids=["refuses", "is full", "says 500", "says 200 with an error", "says something else"],
)
async def test_a_worker_that_does_not_stays_out(failure: Does) -> None:
    world = World(failure)
    await world.probe()
    assert world.replica.ejected_until is not None
    assert not world.replica.probing


@pytest.mark.parametrize(
    "refusal",
    [
        UpstreamRejected("no chat template", status=400),
        FakeExchange([b'{"error": {"message": "no chat template", "code": 400}}']),
    ],
    ids=["at once", "in a 200"],
)
async def test_a_worker_that_refuses_the_probe_for_what_it_says_is_back(refusal: Does) -> None:
    world = World(refusal)
    await world.probe()
    assert world.replica.ejected_until is None


async def test_a_worker_without_chat_is_asked_to_complete_a_text_under_its_own_names() -> None:
    world = World(b"x")
    first = world.catalog.models[0]
    bare = replace(first, card=Card(context_tokens=512, capabilities=frozenset({"completion"})))
    world.catalog = replace(world.catalog, models=(bare,))
    world.replica.backend = replace(world.replica.backend, rename={"max_tokens": "max_new_tokens"})
    await world.probe()
    (message,) = world.upstream.messages
    assert message.path == "/completions"
    assert json.loads(message.body) == {"prompt": "1", "model": "org/small", "max_new_tokens": 1}


async def test_a_prober_that_stops_leaves_nobody_being_probed() -> None:
    world = World(FakeExchange(hangs=True))
    prober = Prober(world.upstream, world.replicas, world.catalog, every_s=0.0)
    await prober.start()
    async with asyncio.timeout(5):
        while not world.upstream.messages:
            await asyncio.sleep(0)
    assert world.replica.probing
    await prober.stop()
    assert not world.replica.probing
    assert world.replica.ejected_until is not None


async def test_a_probe_that_is_given_up_before_it_begins_leaves_nobody_being_probed() -> None:
    world = World(b"x")
    prober = Prober(world.upstream, world.replicas, world.catalog)
    await prober.start()
    await asyncio.sleep(0)
    assert (world.replica.probing, world.upstream.messages) == (True, [])
    await prober.stop()
    assert (world.replica.probing, world.upstream.messages) == (False, [])
