"""What is remembered of callers takes bounded memory, however large their requests are.

Prints its figures as lines of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from app.api.access import Access
from app.api.bodies.parsing import parse_chat
from app.api.connection.guard import Refused, _check_host
from app.api.connection.strangers import Strangers
from app.domain.preferences import Profile
from app.gateway import has_session
from app.routing.outline import Outlines
from app.store.journal.journal import Entry, Outcome, RecentDecisions
from app.store.sessions import MemorySessions
from router_models.reading.conversation import parts
from router_models.reading.wordpiece import FastWordPiece
from tests.fakes.artifacts import tiny_artifact
from tests.fakes.call import FakeCall
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import catalog

# 200 requests may leave 20 MiB; in a hurry, a tenth of both.
REQUESTS, REQUESTS_IN_A_HURRY, MOST_MIB_EACH = 200, 20, 0.1
CAN: dict[str, Any] = {"context_tokens": 10_000_000, "capabilities": {"chat", "tools"}}
MODELS = (llm("small", **CAN), llm("large", license="mit", regions={"eu", "us"}, **CAN))
ACCESS = Access(catalog(*MODELS), {"default": Profile()})
WIDE = "\N{GRINNING FACE}"
"""Takes four bytes, as all other characters of its text then do."""

Body = Callable[[int], Mapping[str, Any]]


def names(number: int, count: int = 10_000, letter: str = "z") -> list[str]:
    """As many and as long as a limit may list, and others for each request."""
    return [f"{number}-{place}-".ljust(250, letter) for place in range(count)]


def limited(number: int, **limits: Any) -> Mapping[str, Any]:
    return {"messages": [{"role": "user", "content": f"hi {number}"}], "routing": limits}


def said(*texts: str, **rest: Any) -> Mapping[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **rest}


BODIES: Mapping[str, Body] = {
    "models to leave out": lambda number: limited(number, exclude=names(number)),
    "models to choose from": lambda number: limited(number, models=["small", *names(number, 9_999)]),
    "regions": lambda number: limited(number, regions=["eu", "us", *names(number, 9_998)]),
    "licences": lambda number: limited(number, licenses=["mit", *names(number, 9_999)]),
    "short lists of wide names": lambda number: limited(
        number,
        exclude=names(number, 3, WIDE),
        models=["small", *names(number, 3, WIDE)],
        licenses=["apache-2.0", *names(number, 3, WIDE)],
        regions=["eu", "us", *names(number, 3, WIDE)],
    ),
    "short names": lambda number: limited(number, exclude=[f"{number}.{place}" for place in range(10_000)]),
    "a long text": lambda number: said(f"{number}" + "long " * 200_000),
    "texts as long as are their own names": lambda number: said(f"{number:04}" + WIDE * 996),
    "many small messages": lambda number: said(*(f"{number} {place}" for place in range(2_000))),
    "a session": lambda number: limited(number, session_id=f"{number}".ljust(128, "s")),
    "a cache's key": lambda number: said("hi", prompt_cache_key=f"{number}".ljust(256, WIDE)),
    "a user": lambda number: said("hi", user=f"{number}".ljust(250, WIDE), metadata={"a": f"{number}" * 100}),
    "tools": lambda number: said(
        f"hi {number}",
        tools=[{"type": "function", "function": {"name": f"f{number}_{place}"}} for place in range(128)],
    ),
}


@pytest.fixture(scope="module")
def requests(full_size: bool) -> int:
    return REQUESTS if full_size else REQUESTS_IN_A_HURRY


@contextmanager
def measured(name: str, requests: int) -> Iterator[None]:
    """Fails where more is left of what the block does than may be."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        gc.collect()
        left_mib = tracemalloc.get_traced_memory()[0] / 2**20
    finally:
        tracemalloc.stop()
    print(json.dumps({"hostile": name, "requests": requests, "left_mib": round(left_mib, 2)}))
    assert left_mib < requests * MOST_MIB_EACH


@pytest.mark.parametrize("name", BODIES)
def test_large_requests_leave_little(name: str, requests: int) -> None:
    world = world_of(*MODELS, quality={"small": 0.5, "large": 0.9}, seen={"small": 0.5, "large": 0.9})
    predictor, fleet = world.predictor, fleet_of(*MODELS)
    assert predictor is not None
    journal, sessions, outlines = RecentDecisions(), MemorySessions(), Outlines()

    async def serve(number: int) -> None:
        headers = {"x-session-id": f"{number}" * 1_000} if name == "a user" else {}
        body = {"model": "auto", **BODIES[name](number)}
        request = parse_chat(body, FakeCall(access=ACCESS, headers=headers, request_id=f"req-{number}"))
        decision = await world.router.route(request, fleet)
        predictor.glanced.clear()
        entry = Entry(request.request_id, request.key_id, decision, request=request)
        journal.decided(entry)
        outlines.of(decision)
        if has_session(request):
            sessions.remember(request, "small")
        entry.outcome = Outcome("ok")
        journal.closed(entry)

    async def serve_all() -> None:
        for number in range(requests):
            await serve(number)

    with measured(name, requests):
        asyncio.run(serve_all())


def test_hosts_leave_little(requests: int) -> None:
    def check(number: int) -> None:
        try:
            _check_host(f"{number}".ljust(8 << 10, "h"))
        except Refused:
            return

    with measured("hosts", requests):
        for number in range(requests):
            check(number)


def test_addresses_leave_little(requests: int) -> None:
    strangers = Strangers()
    with measured("addresses", requests):
        for number in range(requests):
            strangers.let_in(f"fe80:0:0:{number:x}::1%{'z' * 64}", None)


def test_words_leave_little(requests: int) -> None:
    """A predictor reads the edges of a text."""
    wordpiece = FastWordPiece(tiny_artifact().tokenizer)
    with measured("words", requests):
        for number in range(requests):
            for end in ("", WIDE):
                text = parts((("user", " ".join(f"{number}.{place}{end}" for place in range(2_000))),))
                wordpiece.ids(text.question)
            wordpiece.ids(parts((("user", f"{number}" + "w" * 1_000_000),)).question)
