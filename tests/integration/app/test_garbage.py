"""What a request leaves in memory when it fails or its caller leaves: nothing that only a collection would find.

Such circles lie about for minutes under load, and the memory that they take meanwhile is never given back.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.backend import Script
from tests.fakes.caller import call, hang_up, hear, session_to
from tests.fakes.deployment import Deployment, deployed
from tests.fakes.process import until

FAULTS = {
    "refuses": Script(status=500),
    "resets": Script(reset=True),
    "resets after its head": Script(head_then_reset=True),
    "never answers": Script(hang=True),
    "closes": Script(cut_after=3),
    "resets in the middle": Script(cut_after=3, cut_with_reset=True),
    "sends garbage": Script(garbage_after=3),
    "brings an error": Script(error_after=3),
    "falls silent": Script(hang_after=3),
}
SHORT = {"connect_timeout_s": 0.5, "first_byte_timeout_s": 0.3, "idle_timeout_s": 0.3, "total_timeout_s": 2}


@contextmanager
def circles() -> Iterator[Counter[str]]:
    """Counts, by class, what of the gateway only a collection finds in this block."""
    found: Counter[str] = Counter()
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        kinds = [type(one) for one in gc.garbage]
        found.update(kind.__qualname__ for kind in kinds if kind.__module__.startswith("app."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        if was_enabled:
            gc.enable()


async def until_idle(deployment: Deployment) -> None:
    await until(lambda: deployment.application.live.in_flight, 0)
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_backends_that_fail_leave_no_circles(tmp_path: Path, fault: str, stream: bool) -> None:
    running = deployed(tmp_path, "small", "large", upstream=SHORT)
    async with running as deployment, session_to(deployment.url) as session:
        await hear(session, stream=stream, max_tokens=1)
        with circles() as found:
            for backend in deployment.backends.values():
                backend.script = FAULTS[fault]
            for _ in range(2):
                await hear(session, stream=stream, max_tokens=1)
            await until_idle(deployment)
        assert not found


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("script", [Script(hang=True), Script(hang_after=3)])
async def test_callers_who_leave_leave_no_circles(tmp_path: Path, script: Script, reset: bool) -> None:
    async with deployed(tmp_path, "small") as deployment:
        with circles() as found:
            deployment.backends["small"].script = script
            for _ in range(2):
                _, writer = await call(deployment.port, stream=True)
                await deployment.backends["small"].until(in_flight=1)
                hang_up(writer, reset=reset)
                await until_idle(deployment)
        assert not found
