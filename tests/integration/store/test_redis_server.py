"""The Redis that other tests use has the faults that they ask it for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NobodyThere
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as NoAnswer

from tests.fakes.redis_server import RedisServer, running_redis


@pytest.fixture(params=[False, True], ids=["socket", "tcp"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running_redis(tmp_path, tcp=request.param) as running:
        yield running


def test_it_is_at_the_same_address_with_its_data_after_it_was_killed(server: RedisServer) -> None:
    assert server.do("SET", "fruit", "apple")
    before = server.pid
    server.kill()
    with pytest.raises(NobodyThere):
        server.do("PING")
    server.start()
    assert server.do("GET", "fruit") == b"apple"
    assert server.pid != before


def test_it_says_nothing_while_it_is_paused(server: RedisServer) -> None:
    server.pause()
    with Redis.from_url(server.url, socket_timeout=0.05) as client, pytest.raises(NoAnswer):
        client.ping()
    server.resume()
    assert server.do("PING")


def test_it_refuses_writes_until_it_recovers(server: RedisServer) -> None:
    server.run_out_of_memory()
    with pytest.raises(OutOfMemoryError):
        server.do("SET", "fruit", "apple")
    server.recover()
    server.become_read_only()
    with pytest.raises(ReadOnlyError):
        server.do("SET", "fruit", "apple")
    server.recover()
    assert server.do("SET", "fruit", "apple")


def test_it_ends_even_while_it_is_paused(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        process = server.pid
        server.pause()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
