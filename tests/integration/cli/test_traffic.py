"""`thalamus traffic` against a whole gateway: every way of asking comes, and is answered as it should be."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from app.cli.traffic import Traffic
from app.errors import UsageError
from tests.fakes.deployment import SECRET, deployed
from tests.fakes.process import until


async def test_traffic_is_answered_and_refused_as_its_ways_say(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small", "large", profiles={"default": {}, "cheap": {}, "best": {}}) as running:
        sender = Traffic(running.url, SECRET, random.Random(7))
        sending = asyncio.create_task(sender.run(per_s=60, seconds=None))
        await until(lambda: sender.answered.total() > 80 and set(sender.answered), {200, 404, 422}, within_s=60)
        sending.cancel()

        assert sender.answered[200] > 0.6 * sender.answered.total()
        asked = [one.body for backend in running.backends.values() for one in backend.requests]
        assert {bool(body.get("stream")) for body in asked} == {True, False}


async def test_a_refused_key_is_one_line(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as running:
        with pytest.raises(UsageError, match="the gateway answered 401"):
            await Traffic(running.url, "sk-wrong", random.Random(7)).run(per_s=10, seconds=0.1)
