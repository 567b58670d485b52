"""Looking up names: once for all who wait, and apart from all other names."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.upstream.http.lookups import LOOKUPS_AT_ONCE, Lookups


class FakeNames:
    """A resolver that is stuck with every name that begins with `slow`, until it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._stuck = threading.Event()

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.startswith("slow"):
            self._stuck.wait(10)
        if host == "unknown":
            raise OSError("not known")
        return ["127.0.0.1", "127.0.0.1", "::1"]

    def let_go(self) -> None:
        self._stuck.set()


async def test_a_name_that_is_found_slowly_is_asked_for_once_and_keeps_no_other_waiting() -> None:
    names = FakeNames()
    lookups = Lookups(names)
    try:
        waiting = [asyncio.ensure_future(lookups("slow")) for _ in range(10 * LOOKUPS_AT_ONCE)]
        await asyncio.sleep(0)
        for one in waiting[1:]:
            one.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
        assert await asyncio.wait_for(lookups("quick"), 5) == ["127.0.0.1", "::1"]
        assert not waiting[0].done()
    finally:
        names.let_go()
    assert await waiting[0] == ["127.0.0.1", "::1"]
    assert names.asked == ["slow", "quick"]


async def test_what_was_found_is_not_kept_and_neither_is_that_nothing_was() -> None:
    names = FakeNames()
    lookups = Lookups(names)
    for _ in range(2):
        with pytest.raises(OSError, match="not known"):
            await lookups("unknown")
        await lookups("quick")
    assert names.asked == ["unknown", "quick"] * 2
