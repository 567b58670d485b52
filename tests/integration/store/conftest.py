"""The stores' tests run on the event loop that the gateway has, on a real Redis of their own."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.fakes.redis_server import RedisServer, running_redis


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty one that listens on a socket."""
    with running_redis(tmp_path) as server:
        yield server
