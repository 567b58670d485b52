"""Bodies that have not arrived whole: how many of a key, how large all together, and nothing is left of any of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.api import Plane, data_plane
from app.api.connection.doors import Doors
from app.api.connection.uploads import MOST_OF_A_KEY, MOST_OVER, PIECE_BYTES, ROOM_BYTES, SHARE_OF_MEMORY, Uploads
from app.errors import Overloaded, RateLimited
from app.store.keys.key import Key
from tests.fakes.asgi import Reply, scope_of
from tests.fakes.connection import FakeConnection
from tests.fakes.gateway import Bench, bench
from tests.fakes.listener import SECRET, UNLIMITED, doors, keys
from tests.fakes.upstream import FakeUpstream
from tests.fakes.world import FakeKey, catalog, model

CATALOG = catalog(model("small"), model("large"))
BODY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi" * 1000}]}).encode()
ONE = Key("one", models=("*",), **{**UNLIMITED, "concurrency": 1})


def world(room_bytes: int = ROOM_BYTES) -> tuple[Bench, Doors, Plane]:
    a_bench = bench(CATALOG, FakeUpstream(small=b"hello", large=b"hello"))
    shared = doors(a_bench, CATALOG, keys(sk_one=ONE))
    shared.uploads.room_bytes = room_bytes
    return a_bench, shared, data_plane(shared)


def request(*headers: str, key: str = SECRET, length: int = len(BODY)) -> bytes:
    framing = f"content-length: {length}" if length else "transfer-encoding: chunked"
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json", framing]
    return "\r\n".join([*lines, f"authorization: Bearer {key}", *headers]).encode() + b"\r\n\r\n"


def status(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


async def test_a_key_sends_as_many_bodies_at_a_time_as_it_may_have_requests_in_flight() -> None:
    a_bench, shared, plane = world()
    first, second, other = (FakeConnection(plane) for _ in range(3))
    first.send(request(key="sk-one") + BODY[:10])
    assert status(await second.ask(request("x-request-id: mine", key="sk-one"))) == 429
    assert b"x-request-id: mine" in second.written
    assert b"retry-after: 1" in second.written
    (event,) = a_bench.events("request.rejected")
    assert (event["key"], event["code"], event["request_id"]) == ("one", "rate_limit_exceeded", "mine")
    other.send(request())
    assert other.written == b"", "another key has its own"
    assert status(await first.ask(BODY[10:])) == 200
    third = FakeConnection(plane)
    third.send(request(key="sk-one"))
    assert status(await third.ask(BODY)) == 200
    assert status(await FakeConnection(plane).ask(request(key="sk-one") + BODY)) == 200
    assert status(await other.ask(BODY)) == 200
    assert shared.uploads.bytes == 0


async def test_when_there_is_no_room_new_bodies_are_turned_away_but_those_that_are_there_at_once() -> None:
    a_bench, shared, plane = world(room_bytes=len(BODY) // 2 + PIECE_BYTES)
    first, second = FakeConnection(plane), FakeConnection(plane)
    first.send(request() + BODY[: len(BODY) // 2])
    assert status(await second.ask(request() + BODY[:10])) == 503
    assert b'"overloaded"' in second.written
    assert b"retry-after: " in second.written
    assert [event["code"] for event in a_bench.events("request.rejected")] == ["overloaded"]
    assert status(await FakeConnection(plane).ask(request() + BODY)) == 200
    assert status(await first.ask(BODY[len(BODY) // 2 :])) == 200
    assert shared.uploads.bytes == 0
    again = FakeConnection(plane)
    again.send(request())
    assert status(await again.ask(BODY)) == 200


@pytest.mark.parametrize("piece", [b"x" * 100, b"x"])
async def test_who_began_while_there_was_room_is_turned_away_when_it_is_filled_twice(piece: bytes) -> None:
    _, shared, plane = world(room_bytes=5_000)
    callers = [FakeConnection(plane) for _ in range(10)]
    for caller in callers:
        caller.send(request(length=4_000))
    most = 0
    for _ in range(40):
        for caller in callers:
            if not caller.transport.half_closed:
                caller.send(piece)
            most = max(most, shared.uploads.bytes)
    assert most <= MOST_OVER * 5_000 + 2 * PIECE_BYTES + len(piece)
    assert 503 in {status(caller.written) for caller in callers}


@pytest.mark.parametrize("end", ["leaves", "is late", "sends too much", "sends no chunk", "is whole"])
async def test_nothing_is_left_of_a_body_however_it_ends(end: str) -> None:
    _, shared, plane = world()
    shared.body_limit_bytes = 5_000
    caller = FakeConnection(plane)
    caller.send(request(key="sk-one", length=0) + b"%x\r\n%b" % (len(BODY), BODY[:100]))
    assert shared.uploads.bytes == 100 + PIECE_BYTES
    if end == "leaves":
        caller.leave()
    elif end == "is late":
        caller.wire.overdue()
    elif end == "is whole":
        await caller.ask(BODY[100:] + b"\r\n0\r\n\r\n")
    else:
        caller.send(BODY[100:] + (b"\r\nfff\r\n" + b"x" * 0xFFF if end == "sends too much" else b"\r\nno\r\n"))
    expected = {"leaves": 0, "is late": 408, "sends too much": 413, "sends no chunk": 400, "is whole": 200}
    assert status(caller.written) == expected[end]
    assert shared.uploads.bytes == 0
    shared.uploads.begin(ONE).end()


async def test_bodies_of_control_routes_count_as_well() -> None:
    _, shared, plane = world()
    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    reply = Reply()
    scope = scope_of("POST", "/v1/routing/explain", {"authorization": "Bearer sk-one"})
    asked = asyncio.ensure_future(plane.app(scope, coming.get, reply.send))
    coming.put_nowait({"type": "http.request", "body": BODY[:100], "more_body": True})
    for _ in range(10):
        await asyncio.sleep(0)
    assert shared.uploads.bytes == 100 + PIECE_BYTES
    with pytest.raises(RateLimited):
        shared.uploads.begin(ONE)
    coming.put_nowait({"type": "http.request", "body": BODY[100:], "more_body": False})
    await asked
    assert (reply.status, shared.uploads.bytes) == (200, 0)


def test_a_key_without_a_limit_has_a_generous_one() -> None:
    uploads = Uploads()
    under_way = [uploads.begin(FakeKey()) for _ in range(MOST_OF_A_KEY)]
    with pytest.raises(RateLimited):
        uploads.begin(FakeKey())
    under_way[0].end()
    uploads.begin(FakeKey())


def test_the_room_is_a_share_of_the_memory_and_follows_the_configuration() -> None:
    assert Uploads.within(None).room_bytes == ROOM_BYTES
    assert Uploads.within(1 << 30).room_bytes == SHARE_OF_MEMORY * (1 << 30)
    _, shared, _ = world()
    _, other, _ = world(room_bytes=7)
    before = shared.uploads
    shared.become(other)
    assert (shared.uploads is before, shared.uploads.room_bytes) == (True, 7)


def test_what_does_not_fit_is_told() -> None:
    uploads = Uploads(100)
    upload = uploads.begin(FakeKey())
    upload.take(100)
    with pytest.raises(Overloaded):
        uploads.begin(FakeKey("another"))
    with pytest.raises(Overloaded):
        upload.take(100)
    upload.end()
    assert uploads.bytes == 0
