"""How a real Redis is asked: with little patience, by many at a time, and by some who leave."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from app.domain.clock import Clock
from app.store.redis_client import FAILURES_IN_A_ROW, LEFT_ALONE_S, RedisClient, Script, StoreDown
from app.store.redis_wire import FORM, FORM_KEPT_IN
from tests.fakes.clock import FakeClock
from tests.fakes.fault_proxy import FaultProxy, Toxics
from tests.fakes.process import until
from tests.fakes.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.timing

# What a caller may wait at most; a busy machine adds its own.
PATIENT_S = 0.05
COUNT_UP = Script("return redis.call('INCR', KEYS[1])")


class Connect(Protocol):
    def __call__(self, url: str, password: str | None = None, clock: Clock | None = None) -> RedisClient:
        """A client, which is closed when the test is over, however it ends: a loop with an open one does not end."""
        ...


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        def made(url: str, password: str | None = None, clock: Clock | None = None) -> RedisClient:
            client = RedisClient(url, password, clock or FakeClock())
            stack.push_async_callback(client.aclose)
            return client

        yield made


@pytest.fixture
async def client(redis_server: RedisServer, connect: Connect) -> RedisClient:
    return connect(redis_server.url)


async def outcome(client: RedisClient, *command: Any) -> tuple[Any, float]:
    """The answer or the name of the error, and the seconds that it took."""
    began_at = time.monotonic()
    try:
        answer = await client.ask(*command)
    except StoreDown:
        answer = "down"
    return answer, time.monotonic() - began_at


def connections(server: RedisServer) -> int:
    """Those of the gateway."""
    count: int = server.do("CLIENT", "LIST").count(b"name=thalamus")
    return count


async def test_answers_are_as_redis_py_gives_them(client: RedisClient) -> None:
    await client.ask("HSET", "card", "size", 8)
    assert await client.ask("HGETALL", "card") == {b"size": b"8"}
    entry = await client.ask("XADD", "journal", "*", "row", b"\x00\xff")
    assert await client.ask("XRANGE", "journal", "-", "+") == [(entry, {b"row": b"\x00\xff"})]
    assert await client.ask("SET", "fruit", "apple", "EX", 10) is True
    assert await client.ask("GET", "nothing") is None


async def test_a_script_is_sent_once_and_again_when_redis_has_forgotten_it(
    client: RedisClient, redis_server: RedisServer
) -> None:
    assert [await client.run(COUNT_UP, ["n"]) for _ in range(2)] == [1, 2]
    redis_server.do("SCRIPT", "FLUSH")
    assert await asyncio.gather(*(client.run(COUNT_UP, ["n"]) for _ in range(3))) == [3, 4, 5]


async def test_many_commands_travel_over_one_connection(client: RedisClient, redis_server: RedisServer) -> None:
    answers = await asyncio.gather(*(client.ask("INCR", "n") for _ in range(5_000)))
    assert answers == list(range(1, 5_001))
    assert connections(redis_server) == 1


async def test_a_password_and_a_database_are_told_at_the_door(redis_server: RedisServer, connect: Connect) -> None:
    redis_server.do("CONFIG", "SET", "requirepass", "hush")
    let_in = connect(f"{redis_server.url}?db=3", "hush")
    await let_in.ask("SET", "fruit", "apple")
    assert (await let_in.ask("DBSIZE")) == 2, "what was asked for, and the mark"
    left_out = connect(redis_server.url, "wrong")
    with pytest.raises(StoreDown, match="WRONGPASS"):
        await left_out.ask("GET", "fruit")


async def test_the_address_may_name_a_user(redis_server: RedisServer, connect: Connect) -> None:
    redis_server.do("ACL", "SETUSER", "gateway", "on", ">hush", "allkeys", "allcommands")
    client = connect(f"{redis_server.url}?db=3&username=gateway", "hush")
    assert await client.ask("ACL", "WHOAMI") == b"gateway"


async def test_a_redis_of_a_later_release_is_as_good_as_down(redis_server: RedisServer, connect: Connect) -> None:
    first = connect(redis_server.url)
    assert await first.ask("PING")
    assert int(redis_server.do("GET", FORM_KEPT_IN)) == FORM
    redis_server.do("SET", FORM_KEPT_IN, FORM + 1)
    second = connect(redis_server.url)
    with pytest.raises(StoreDown, match="LATER a later release has written there"):
        await second.ask("SET", "card", "1")
    redis_server.do("CLIENT", "KILL", "TYPE", "normal")
    assert (await outcome(first, "SET", "card", "1"))[0] == "down"
    with pytest.raises(StoreDown, match="LATER"):
        await first.ask("SET", "card", "1")
    assert redis_server.do("GET", FORM_KEPT_IN) == b"%d" % (FORM + 1)
    assert redis_server.do("GET", "card") is None


@pytest.mark.parametrize("fault", ["run_out_of_memory", "become_read_only"])
async def test_a_redis_that_takes_no_mark_lets_in_all_the_same(
    redis_server: RedisServer, fault: str, connect: Connect
) -> None:
    getattr(redis_server, fault)()
    client = connect(redis_server.url)
    assert await client.ask("GET", "card") is None
    assert redis_server.do("GET", FORM_KEPT_IN) is None


async def test_a_value_that_cannot_be_sent_is_the_callers_mistake(client: RedisClient) -> None:
    other = asyncio.ensure_future(client.ask("PING"))
    with pytest.raises(TypeError):
        await client.ask("SET", "fruit", None)
    assert await other is True


async def test_a_stalled_redis_holds_nobody_for_longer_than_a_moment(
    client: RedisClient, redis_server: RedisServer
) -> None:
    await client.ask("PING")
    redis_server.pause()
    first = asyncio.ensure_future(outcome(client, "GET", "fruit"))
    await asyncio.sleep(0.03)
    answers = await asyncio.gather(first, *(outcome(client, "GET", "fruit") for _ in range(50)))
    assert {answer for answer, _ in answers} == {"down"}
    assert max(seconds for _, seconds in answers) < PATIENT_S + 0.05
    redis_server.resume()
    await until(lambda: outcome_of(client), True)
    assert connections(redis_server) == 1


async def outcome_of(client: RedisClient) -> Any:
    return (await outcome(client, "PING"))[0]


async def test_commands_that_fail_together_are_one_failure(client: RedisClient, redis_server: RedisServer) -> None:
    await client.ask("PING")
    redis_server.pause()
    await asyncio.gather(*(outcome(client, "GET", "fruit") for _ in range(3 * FAILURES_IN_A_ROW)))
    assert not client.is_down, "a moment's pause is no outage"
    redis_server.resume()


async def test_it_is_left_alone_after_failures_and_then_tried_by_one_at_a_time(
    redis_server: RedisServer, connect: Connect
) -> None:
    clock = FakeClock()
    client = connect(redis_server.url, clock=clock)
    redis_server.kill()
    for failed in range(FAILURES_IN_A_ROW):
        assert (client.is_down, await outcome_of(client)) == (failed == FAILURES_IN_A_ROW, "down")
    assert client.is_down
    redis_server.start()
    assert await outcome_of(client) == "down", "nobody tries"
    redis_server.pause()
    clock.advance(LEFT_ALONE_S)
    trying = asyncio.ensure_future(outcome(client, "PING"))
    await asyncio.sleep(0.005)
    answer = await outcome_of(client)
    assert (answer, trying.done()) == ("down", False), "while one tries the others hear at once"
    assert (await trying)[0] == "down"
    redis_server.resume()
    await until(lambda: connections(redis_server), 1)
    clock.advance(LEFT_ALONE_S - 0.1)
    assert await outcome_of(client) == "down"
    clock.advance(0.1)
    assert (await outcome_of(client), client.is_down) == (True, False)


@pytest.mark.parametrize("fault", ["run_out_of_memory", "become_read_only"])
async def test_a_redis_that_takes_no_writes_is_as_good_as_down(
    client: RedisClient, redis_server: RedisServer, fault: str
) -> None:
    getattr(redis_server, fault)()
    for _ in range(FAILURES_IN_A_ROW):
        assert (await outcome(client, "SET", "fruit", "apple"))[0] == "down"
    assert client.is_down


@pytest.mark.parametrize("fault", ["run_out_of_memory", "become_read_only"])
async def test_what_is_read_says_nothing_against_a_failure_to_write(
    redis_server: RedisServer, fault: str, connect: Connect
) -> None:
    clock = FakeClock()
    client = connect(redis_server.url, clock=clock)
    getattr(redis_server, fault)()
    for _ in range(FAILURES_IN_A_ROW):
        assert (await outcome(client, "SET", "fruit", "apple"))[0] == "down"
        assert client.is_down or (await outcome(client, "GET", "fruit"))[0] is None
    clock.advance(LEFT_ALONE_S)
    assert (await outcome(client, "GET", "fruit"))[0] is None
    assert not client.is_down, "a write is to be tried"
    assert (await outcome(client, "SET", "fruit", "apple"))[0] == "down"
    assert client.is_down
    redis_server.recover()
    clock.advance(LEFT_ALONE_S)
    assert (await outcome(client, "SET", "fruit", "apple"))[0] is True
    client.breaker.failed()
    assert not client.is_down


async def test_a_primary_that_has_become_a_replica_is_left_for_whoever_is_at_its_address(
    tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with running_redis(tmp_path / "old") as old, running_redis(tmp_path / "new") as new:
        address = tmp_path / "redis.sock"
        address.symlink_to(tmp_path / "old" / "redis.sock")
        client = connect(f"unix://{address}")
        assert await outcome_of(client) is True
        old.become_read_only()
        address.unlink()
        address.symlink_to(tmp_path / "new" / "redis.sock")
        asked = await asyncio.gather(*(outcome(client, *one) for one in (("SET", "n", 1), ("GET", "n"))))
        assert [answer for answer, _ in asked] == ["down", None], "what was answered is heard"
        assert (await outcome(client, "SET", "fruit", "apple"))[0] is True
        assert new.do("EXISTS", "fruit") == 1


async def test_who_is_left_without_an_answer_hears_what_was_wrong(redis_server: RedisServer, connect: Connect) -> None:
    redis_server.do("CONFIG", "SET", "requirepass", "hush")
    client = connect(redis_server.url, "wrong")
    for _ in range(FAILURES_IN_A_ROW + 1):
        with pytest.raises(StoreDown, match="WRONGPASS"):
            await client.ask("GET", "fruit")
    assert client.is_down


async def test_one_bad_value_or_script_leaves_the_rest_alone(client: RedisClient) -> None:
    await client.ask("SET", "fruit", "apple")
    for _ in range(3 * FAILURES_IN_A_ROW):
        with pytest.raises(StoreDown, match="WRONGTYPE"):
            await client.ask("HGETALL", "fruit")
        with pytest.raises(StoreDown, match="ERR"):
            await client.run(Script("return nothing.at.all"), [])
    assert not client.is_down


async def test_what_is_asked_before_it_closes_is_answered_and_nothing_after(
    redis_server: RedisServer, connect: Connect
) -> None:
    client = connect(redis_server.url)
    asked = [asyncio.ensure_future(client.run(COUNT_UP, ["n"])) for _ in range(100)]
    await asyncio.sleep(0)
    await client.aclose()
    assert await asyncio.gather(*asked) == list(range(1, 101))
    assert await outcome_of(client) == "down"
    await until(lambda: connections(redis_server), 0)


async def test_closing_does_not_wait_for_a_stalled_redis(redis_server: RedisServer, connect: Connect) -> None:
    client = connect(redis_server.url)
    redis_server.pause()
    asked = asyncio.ensure_future(outcome(client, "PING"))
    await asyncio.sleep(0)
    began_at = time.monotonic()
    await client.aclose()
    assert time.monotonic() - began_at < 3 * PATIENT_S
    assert (await asked)[0] == "down"
    redis_server.resume()


async def test_lost_connections_are_made_anew_and_do_not_add_up(client: RedisClient, redis_server: RedisServer) -> None:
    for _ in range(20):
        assert await outcome_of(client) is True
        redis_server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.002)
    assert await outcome_of(client) is True
    assert not client.is_down, "an idle connection that ends is no failure"
    assert connections(redis_server) == 1


async def test_a_connection_that_is_late_is_waited_for_by_nobody_and_used_when_it_is_there(
    redis_server: Any, connect: Connect
) -> None:
    redis_server.stop()
    with running_redis(redis_server._folder, tcp=True) as server:
        async with FaultProxy(server.url, http=False) as proxy:
            proxy.up = Toxics(latency_s=0.1)
            client = connect(proxy.url.replace("http", "redis"))
            answer, seconds = await outcome(client, "PING")
            assert answer == "down"
            assert seconds < PATIENT_S + 0.04
            answer, seconds = await outcome(client, "PING")
            assert (answer, seconds < 0.02) == ("down", True), "nor by those who come meanwhile"
            proxy.up = Toxics()
            await until(lambda: outcome_of(client), True)
            assert proxy.connections == 1


async def test_what_is_published_is_heard_and_again_after_an_outage(
    client: RedisClient, redis_server: RedisServer
) -> None:
    heard: list[bytes] = []
    joined: list[None] = []
    subscription = client.subscribe("news", heard.append, lambda: joined.append(None))
    await until(lambda: len(joined), 1)
    client.publish("news", b"one")
    client.publish("other", b"nobody's")
    await until(lambda: heard, [b"one"])
    redis_server.kill()
    redis_server.start()
    await until(lambda: len(joined), 2)
    redis_server.do("PUBLISH", "news", b"two")
    await until(lambda: heard, [b"one", b"two"])
    await subscription.aclose()
    assert redis_server.do("PUBLISH", "news", b"three") == 0


async def test_a_subscriber_of_a_redis_that_says_nothing_more_comes_again(
    client: RedisClient, redis_server: RedisServer
) -> None:
    joined: list[None] = []
    subscription = client.subscribe("news", lambda _: None, lambda: joined.append(None))
    await until(lambda: len(joined), 1)
    redis_server.pause()
    await asyncio.sleep(2.5)
    redis_server.resume()
    await until(lambda: len(joined), 2)
    await subscription.aclose()


@pytest.mark.slow
async def test_nobody_reads_what_another_one_asked(
    redis_server: RedisServer, full_size: bool, capsys: pytest.CaptureFixture[str], connect: Connect
) -> None:
    """R14: every value names its key; half of those who ask leave at a random moment, and connections break."""
    total, rng = 100_000 if full_size else 5_000, random.Random(14)
    client = connect(redis_server.url, clock=time.monotonic)
    for number in range(200):
        await client.ask("SET", f"key-{number}", f"value of key-{number}")
    wrong, told = [], {"right": 0, "down": 0, "left": 0}

    async def get(number: int) -> None:
        try:
            value = await client.ask("GET", f"key-{number}")
        except StoreDown:
            told["down"] += 1
        except asyncio.CancelledError:
            told["left"] += 1
        else:
            told["right"] += 1
            if value != f"value of key-{number}".encode():
                wrong.append((number, value))

    for asked in range(0, total, 50):
        tasks = [asyncio.ensure_future(get(rng.randrange(200))) for _ in range(50)]
        leaving = rng.sample(tasks, 25)
        for turn in range(4):
            await asyncio.sleep(0)
            if turn == 0 and asked % 1_000 == 500:
                redis_server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            for task in leaving[turn::4]:
                task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        told["left"] += len([end for end in ends if end is not None])  # before they had begun
    with capsys.disabled():
        print(json.dumps({"row": "R14", "gets": total, **told, "wrong": len(wrong)}))
    assert wrong == []
    assert told["left"] > total / 4
    assert told["right"] > total / 3
