"""What sessions cost a request that has none, and one that has. Prints its figures as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.api.bodies.sessions import session_id
from app.domain.preferences import parse_body
from app.domain.sessions import Session
from app.gateway import has_session
from app.routing.sessions import warmth_of
from app.store.sessions import MemorySessions
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request
from tests.fakes.yardstick import Machine

pytestmark = pytest.mark.slow

CALLS, ROUNDS = 4_000, 5
WITHOUT_US, WITH_US = 2.0, 100.0
MODELS = [llm(f"m{number}", context_tokens=32_000) for number in range(8)]
QUALITY = {model.name: 0.5 + 0.05 * number for number, model in enumerate(MODELS)}
WORLD, FLEET = world_of(*MODELS, quality=QUALITY, seen=QUALITY), fleet_of(*MODELS)
SAID = (("system", "s" * 1_000), ("user", "u" * 200), ("assistant", "a" * 2_000), ("user", "and now?"))
PLAIN = request(
    conversation=SAID, key_id="ann", input_tokens=800, preferences=parse_body({"weights": {"cost": 0.3}}).preferences
)
HEADERS: Mapping[str, str] = {"authorization": "Bearer sk-1", "content-type": "application/json", "host": "gateway"}
BODY: Mapping[str, Any] = {"model": "auto", "messages": []}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Without an event loop: it waits for nobody."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def cpu_us(call: Callable[[], object]) -> float:
    """Of the quickest round, per call."""
    rounds = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.process_time() - began_s) / CALLS * 1e6)
    return min(rounds)


def without() -> None:
    """All that a request without a session passes on its way because there are sessions."""
    session_id(None, HEADERS, BODY, SAID)
    has_session(PLAIN)
    warmth_of(None, PLAIN, WORLD.router._table)
    has_session(PLAIN)


def test_a_request_without_a_session_pays_next_to_nothing_for_sessions(machine: Machine) -> None:
    figures = {"without_session_us": round(cpu_us(without), 2)}
    print(json.dumps(figures))
    assert figures["without_session_us"] <= WITHOUT_US * machine.slowness()


def test_a_request_of_a_session_pays_some_microseconds(machine: Machine) -> None:
    one, sessions = replace(PLAIN, session_id="s-1"), MemorySessions()
    session = Session.after(replace(one, conversation=SAID[:2], input_tokens=300), "m2")
    alone = cpu_us(lambda: run(WORLD.router.route(one, FLEET)))
    within = cpu_us(lambda: run(WORLD.router.route(one, FLEET, session)))
    sessions.remember(one, "m2")
    figures = {
        "find_us": round(cpu_us(lambda: run(sessions.find(one))), 1),
        "route_us": round(within - alone, 1),
        "remember_us": round(cpu_us(lambda: sessions.remember(one, "m2")), 1),
    }
    print(json.dumps(figures))
    assert sum(figures.values()) <= WITH_US * machine.slowness()
