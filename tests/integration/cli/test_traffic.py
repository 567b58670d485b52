"""`thalamus traffic` against a whole gateway: every way of asking comes, and is answered as it should be."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
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


@pytest.mark.parametrize("as_json", [True, False])
async def test_what_was_answered_is_counted_by_status(tmp_path: Path, as_json: bool) -> None:
    async with deployed(tmp_path, "small", profiles={"default": {}, "cheap": {}, "best": {}}) as running:
        options = [
            "--url",
            running.url,
            "--per-s",
            "30",
            "--seconds",
            "1",
            "--seed",
            "7",
            *(["--json"] if as_json else []),
        ]
        sending = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", "traffic", *options,
            env={**os.environ, "THALAMUS_KEY": SECRET}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, err = await sending.communicate()
    out = said.decode()
    assert (sending.returncode, err) == (0, b"")
    if as_json:
        counted = json.loads(out)
        assert counted.keys() == {"asked", "answered"}
        assert counted["asked"] == sum(counted["answered"].values()) >= counted["answered"]["200"] > 0
    else:
        assert out.startswith("Asked ")
        assert " of status 200" in out
